// What every chart shares: colours from the theme, and axes drawn in them.
const charts = {
  // A canvas knows no CSS variables: let an element work the colour out.
  colour(name) {
    const probe = document.body.appendChild(document.createElement("i"));
    probe.style.color = `var(${name})`;
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  },

  axes() {
    const line = { stroke: charts.colour("--tblr-border-color"), width: 1 };
    const axis = { stroke: charts.colour("--tblr-secondary"), grid: line, ticks: line };
    return [{ ...axis, label: "step" }, axis];
  },

  onTheme(redraw) {
    new MutationObserver(redraw).observe(document.documentElement, { attributeFilter: ["data-bs-theme"] });
  },
};
