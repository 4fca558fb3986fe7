// The map of runs. It is redrawn when the reader chooses another layout or column to colour by.
(function () {
  const data = JSON.parse(document.getElementById("map-data").textContent);
  const plot = document.getElementById("map");
  const layoutChoice = document.getElementById("map-layout");
  const columnChoice = document.getElementById("map-column");
  const symbols = ["circle", "diamond", "square", "triangle-up", "cross", "x", "star", "hexagon"];
  const missing = "#d0d0d0";

  function fill(choice, names) {
    names.forEach(function (name) {
      const option = document.createElement("option");
      option.value = option.textContent = name;
      choice.append(option);
    });
  }

  // Plotly takes a little HTML in texts; names are texts only.
  function plain(text) {
    return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  }

  function trace(places, chosen, name, marker, values) {
    return {
      type: "scatter", mode: "markers", name: plain(name), hoverinfo: "text",
      x: chosen.map((i) => places.x[i]), y: chosen.map((i) => places.y[i]),
      customdata: chosen.map((i) => data.names[i]),
      text: chosen.map((i) => plain(data.names[i]) + (values ? "<br>" + plain(values(i)) : "")),
      marker: Object.assign({size: 8, line: {width: 0.5, color: "#fff"}}, marker),
    };
  }

  function traces(places, columnName) {
    const all = data.names.map((_, i) => i);
    const column = data.columns[columnName];
    if (!column) {
      return [trace(places, all, "runs", {color: data.colours[0]})];
    }
    const label = (value) => columnName + ": " + (value === null ? "n/a" : value);
    if (column.values) {
      const known = all.filter((i) => column.values[i] !== null);
      const unknown = all.filter((i) => column.values[i] === null);
      const marker = {
        color: known.map((i) => column.values[i]), colorscale: "Cividis", showscale: true,
        colorbar: {title: {text: plain(columnName), side: "right"}},
      };
      return [
        trace(places, known, columnName, marker, (i) => label(column.values[i])),
        trace(places, unknown, "n/a", {color: missing}, () => label(null)),
      ];
    }
    const drawn = column.classes.map(function (name, code) {
      const chosen = all.filter((i) => column.codes[i] === code);
      const marker = {
        color: data.colours[code % data.colours.length],
        symbol: symbols[Math.floor(code / data.colours.length + code) % symbols.length],
      };
      return trace(places, chosen, name, marker, () => label(name));
    });
    const unknown = all.filter((i) => column.codes[i] === null);
    if (unknown.length) {
      drawn.push(trace(places, unknown, "n/a", {color: missing}, () => label(null)));
    }
    return drawn;
  }

  function draw() {
    const places = data.layouts[layoutChoice.value];
    const column = data.columns[columnChoice.value];
    Plotly.react(plot, traces(places, columnChoice.value), {
      xaxis: {title: {text: places.xlabel}, zeroline: false},
      yaxis: {title: {text: places.ylabel}, zeroline: false},
      margin: {l: 60, r: 20, t: 40, b: 50}, height: 540, hovermode: "closest",
      showlegend: Boolean(column && column.classes && !column.many),
      font: {family: "system-ui, sans-serif"},
    }, {responsive: true, displaylogo: false});
  }

  fill(layoutChoice, Object.keys(data.layouts));
  fill(columnChoice, Object.keys(data.columns));
  layoutChoice.addEventListener("change", draw);
  columnChoice.addEventListener("change", draw);
  draw();
  // The mosaic of the run under the pointer.
  const preview = document.getElementById("preview");
  const captions = preview.querySelector("figcaption");
  plot.on("plotly_hover", function (event) {
    const name = event.points[0].customdata;
    const picture = data.pictures[data.names.indexOf(name)];
    preview.querySelector("img").hidden = !picture;
    if (picture) {
      preview.querySelector("img").src = picture;
    }
    captions.textContent = name + (picture ? "" : " (no picture)");
  });
  plot.on("plotly_click", function (event) {
    const participant = event.points[0].customdata.split("_")[0];
    window.open(encodeURIComponent(participant) + ".html", "_blank");
  });

  // The table of runs shows the runs whose names contain all words of the filter.
  const filter = document.getElementById("runs-filter");
  const rows = Array.from(document.querySelectorAll("#table-of-runs tbody tr"));
  filter.addEventListener("input", function () {
    const words = filter.value.toLowerCase().split(/\s+/);
    rows.forEach(function (row) {
      const text = row.cells[0].textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    });
  });
})();
