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
  // One strip of points for each measure of quality, as on MRIQC's group page.
  const quality = document.getElementById("quality");
  const measures = Object.entries(data.quality);
  const nColumns = Math.min(3, measures.length);
  const strips = measures.map(function (entry, number) {
    const axis = number ? String(number + 1) : "";
    const known = data.names.map((_, i) => i).filter((i) => entry[1].values[i] !== null);
    return {
      type: "scatter", mode: "markers", xaxis: "x" + axis, yaxis: "y" + axis, hoverinfo: "text",
      // side by side rather than on top of each other, the same at every visit
      x: known.map((i) => (i * 0.618034) % 1), y: known.map((i) => entry[1].values[i]),
      customdata: known.map((i) => data.names[i]),
      text: known.map((i) => plain(data.names[i]) + "<br>" + entry[1].values[i]),
      marker: {
        size: 7, opacity: 0.7, line: {width: 0.5, color: "#fff"},
        color: known.map((i) => data.colours[data.outliers[i] ? 1 : 0]),
      },
    };
  });
  const axes = {};
  measures.forEach(function (entry, number) {
    const axis = number ? String(number + 1) : "";
    axes["xaxis" + axis] = {visible: false, range: [-0.3, 1.3]};
    axes["yaxis" + axis] = {title: {text: entry[1].label, standoff: 4}, zeroline: false};
  });
  Plotly.newPlot(quality, strips, Object.assign(axes, {
    grid: {rows: Math.ceil(measures.length / nColumns), columns: nColumns, pattern: "independent", xgap: 0.3},
    margin: {l: 70, r: 20, t: 10, b: 10}, height: 240 * Math.ceil(measures.length / nColumns),
    hovermode: "closest", showlegend: false, font: {family: "system-ui, sans-serif"},
  }), {responsive: true, displaylogo: false, displayModeBar: false});

  // The mosaic of the run under the pointer.
  function showPicture(preview) {
    return function (event) {
      const name = event.points[0].customdata;
      const picture = data.pictures[data.names.indexOf(name)];
      preview.querySelector("img").hidden = !picture;
      if (picture) {
        preview.querySelector("img").src = picture;
      }
      preview.querySelector("figcaption").textContent = name + (picture ? "" : " (no picture)");
    };
  }

  function openPage(event) {
    const participant = event.points[0].customdata.split("_")[0];
    window.open(encodeURIComponent(participant) + ".html", "_blank");
  }

  [[plot, "preview"], [quality, "quality-preview"]].forEach(function (pair) {
    pair[0].on("plotly_hover", showPicture(document.getElementById(pair[1])));
    pair[0].on("plotly_click", openPage);
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
