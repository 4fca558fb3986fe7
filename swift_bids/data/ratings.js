// Ratings of the runs. They stay in the page until the reader saves them as a table.
(function () {
  const widgets = Array.from(document.querySelectorAll("fieldset.rating"));
  const button = document.getElementById("save-ratings");
  if (!button) {
    return;
  }

  // Tabs and line breaks separate the cells of the table.
  function cell(text) {
    return String(text).replace(/\s+/g, " ").trim() || "n/a";
  }

  button.addEventListener("click", function () {
    const rater = document.getElementById("rater").value;
    const now = new Date().toISOString();
    const lines = [["name", "rating", "comment", "rater", "time"]];
    widgets.forEach(function (widget) {
      const chosen = widget.querySelector("input[type=radio]:checked");
      const comment = widget.querySelector("input[type=text]").value;
      if (chosen || comment.trim()) {
        lines.push([widget.dataset.run, chosen ? chosen.value : "", comment, rater, now]);
      }
    });
    const text = lines.map((line) => line.map(cell).join("\t") + "\n").join("");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], {type: "text/tab-separated-values"}));
    link.download = button.dataset.file;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    document.getElementById("n-rated").textContent = (lines.length - 1) + " run(s) saved";
  });
})();
