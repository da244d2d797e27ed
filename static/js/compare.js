// Runs side by side: the whole series of each, over one axis of steps.
document.addEventListener("DOMContentLoaded", async () => {
  const COLOURS = ["--tblr-primary", "--tblr-orange", "--tblr-green", "--tblr-purple", "--tblr-red", "--tblr-cyan"];
  const place = document.querySelector("[data-compare]");
  const runs = [...place.querySelectorAll("[data-series]")];
  const series = await Promise.all(runs.map(async (run) => {
    const answer = await fetch(run.dataset.series).catch(() => null);
    return new Map(answer?.ok ? (await answer.json()).points.map((point) => [point.step, point]) : []);
  }));
  const steps = [...new Set(series.flatMap((points) => [...points.keys()]))].sort((a, b) => a - b);
  const column = (points, name) => steps.map((step) => points.get(step)?.[name] ?? null);
  let chart = null;

  function draw() {
    chart?.destroy();
    const lines = runs.flatMap((run, index) => {
      const stroke = charts.colour(COLOURS[index % COLOURS.length]), shared = { stroke, width: 2, spanGaps: true };
      return [{ ...shared, label: run.dataset.name }, { ...shared, label: "validation", dash: [6, 4], points: { show: true, size: 6 } }];
    });
    const data = [steps, ...series.flatMap((points) => [column(points, "loss"), column(points, "validation_loss")])];
    chart = new uPlot({ width: place.clientWidth, height: 320, scales: { x: { time: false } }, axes: charts.axes(), series: [{ label: "step" }, ...lines] }, data, place);
  }

  if (steps.length) draw();
  charts.onTheme(() => chart && draw());
  addEventListener("resize", () => chart?.setSize({ width: place.clientWidth, height: 320 }));
});
