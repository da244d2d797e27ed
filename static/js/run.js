// The run page: the whole series from the server, then live points; a table beside the chart for those who do not see it.
(() => {
  const NAMES = ["loss", "validation_loss", "learning_rate", "grad_norm", "tokens_per_second", "memory_bytes", "device_use", "reward_margin", "reward_accuracy"];
  const DIGITS = { loss: 4, validation_loss: 4, tokens_per_second: 0, reward_margin: 4 };
  // Which looks at the validation rows are drawn over which curve of the steps.
  const OVER = { loss: "validation_loss", reward_margin: "validation_margin", reward_accuracy: "validation_accuracy" };
  let holder = null, chart = null, steps = new Map(), timer = null, curve = "loss";

  function show(name, value) {
    if (name === "memory_bytes") return `${(value / 2 ** 30).toFixed(1)} GB`;
    if (name === "device_use") return `${Math.round(100 * value)} %`;
    return name === "learning_rate" ? value.toExponential(1) : value.toFixed(DIGITS[name] ?? 2);
  }

  function duration(seconds) {
    const minutes = Math.floor(seconds / 60);
    return minutes >= 60 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : minutes ? `${minutes} min` : `${Math.round(seconds)} s`;
  }

  function take(points) {
    for (const point of points) {
      const kept = { ...steps.get(point.step), ...point };
      steps.set(point.step, kept);
      for (const name of NAMES) {
        const cell = holder.querySelector(`[data-metric="${name}"]`);
        if (cell && point[name] !== undefined && point[name] !== null) cell.textContent = show(name, point[name]);
      }
      const left = holder.querySelector('[data-metric="seconds_left"]');
      if (left && point.seconds_left !== undefined && point.seconds_left !== null) left.textContent = point.seconds_left > 0 ? `about ${duration(point.seconds_left)} left` : "";
    }
    timer ??= setTimeout(draw, 150);
  }

  function draw() {
    timer = null;
    const order = [...steps.keys()].sort((a, b) => a - b);
    const column = (name) => order.map((step) => steps.get(step)[name] ?? null);
    const over = OVER[curve], label = curve.replaceAll("_", " ");
    const scaled = curve === "memory_bytes" ? column(curve).map((value) => value === null ? null : value / 2 ** 30) : column(curve);
    const data = over ? [order, scaled, column(over)] : [order, scaled];
    const lines = [{ label: curve === "memory_bytes" ? "memory, GB" : label, stroke: charts.colour("--tblr-primary"), width: 2 }];
    if (over) lines.push({ label: over.replaceAll("_", " "), stroke: charts.colour("--tblr-orange"), width: 2, spanGaps: true, points: { show: true, size: 7 } });
    const place = holder.querySelector("[data-chart]");
    if (!chart && place && order.length) {
      chart = new uPlot({
        width: place.clientWidth, height: 280, scales: { x: { time: false } }, axes: charts.axes(),
        series: [{ label: "step" }, ...lines],
      }, data, place);
    } else if (chart) chart.setData(data);
    const body = holder.querySelector("[data-chart-table] tbody");
    body.replaceChildren(...order.slice(-300).reverse().map((step) => {
      const row = document.createElement("tr");
      for (const text of [step, ...["loss", "validation_loss", "learning_rate", "grad_norm"].map((name) => { const value = steps.get(step)[name]; return value == null ? "" : show(name, value); })]) {
        const cell = document.createElement("td");
        cell.textContent = text;
        row.append(cell);
      }
      return row;
    }));
  }

  async function load() {
    const answer = await fetch(holder.dataset.runMetrics).catch(() => null);
    if (answer?.ok) take((await answer.json()).points);
  }

  function choose(button) {
    curve = button.dataset.curve;
    for (const other of holder.querySelectorAll("[data-curve]")) other.setAttribute("aria-pressed", String(other === button));
    forget();
    draw();
  }

  function forget() {
    chart?.destroy();
    chart = null;
  }

  function begin() {
    const found = document.querySelector("[data-run-metrics]");
    if (!found || found === holder) return;
    holder = found;
    for (const button of holder.querySelectorAll("[data-curve]")) {
      button.setAttribute("aria-pressed", String(button.dataset.curve === curve));
      button.addEventListener("click", () => choose(button));
    }
    forget();
    load();
  }

  document.addEventListener("live:step", (event) => { if (holder && String(event.detail.job) === holder.dataset.runJob) take(event.detail.body.points); });
  document.addEventListener("live:poll", () => { if (holder?.hasAttribute("data-run-active")) load(); });
  document.addEventListener("live:resync", () => holder && load());
  document.addEventListener("live:sample", (event) => { if (holder && String(event.detail.job) === holder.dataset.runJob) htmx.trigger("[data-run-samples]", "samples"); });
  for (const kind of ["log", "checkpoint", "warning"]) {
    document.addEventListener(`live:${kind}`, (event) => {
      const list = document.querySelector("[data-run-events]");
      if (!list || !holder || String(event.detail.job) !== holder.dataset.runJob) return;
      const item = document.createElement("li");
      item.textContent = event.detail.body.line ?? event.detail.body.message;
      list.prepend(item);
    });
  }
  document.addEventListener("htmx:afterSettle", begin);
  document.addEventListener("DOMContentLoaded", begin);
  charts.onTheme(() => { forget(); if (holder) draw(); });
  addEventListener("resize", () => chart?.setSize({ width: holder.querySelector("[data-chart]").clientWidth, height: 280 }));
})();
