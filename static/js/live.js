// Live pages: one stream of server-sent events per visible page, polling when the stream is not to be had.
//
//   <body data-live="/projects/1/live">
//   <div data-job="7">…progress component…</div>          swapped on every change of job 7
//   <div data-job-state="7" hx-get="…" hx-trigger="job-state">   re-fetches itself when job 7 changes state
//   <div data-job-url="/datasets/1/label-studio" …>               the same for every job of that page
//   document.addEventListener("live:step", (e) => e.detail)      {job, body} of any other event kind
(() => {
  const POLL_MS = 4000, GIVE_UP_MS = 8000;
  const latest = new Map();  // job → {html, state} of its last change
  const taken = new Set();  // a stream that goes on repeats its last seconds; each event counts once
  let source = null, last = null, lostAt = Date.now(), isOpen = false;

  const shown = (job) => document.querySelectorAll(`[data-job="${job}"]`);
  const tell = (el) => el && htmx.trigger(el, "job-state");
  const tellState = (job) => {
    document.querySelectorAll(`[data-job-state="${job}"]`).forEach(tell);
    new Set([...shown(job)].map((el) => el.closest("[data-job-url]"))).forEach(tell);
  };

  function swap(job, html, state) {
    let before = null;
    shown(job).forEach((el) => {
      before = el.querySelector("[data-state]")?.dataset.state ?? before;
      el.innerHTML = html;
      htmx.process(el);
    });
    return before !== state;
  }

  function isNew(id) {
    if (taken.has(id)) return false;
    last = id;
    taken.add(id);
    if (taken.size > 4000) taken.delete(taken.values().next().value);
    return true;
  }

  function onChange(event) {
    if (!isNew(event.lastEventId)) return;
    const { job, body } = JSON.parse(event.data);
    latest.set(String(job), body);
    swap(job, body.html, body.state);
    if (event.type === "state") {
      tellState(job);
      document.querySelectorAll(`[data-job-url="${body.url}"]`).forEach(tell);
    }
    document.dispatchEvent(new CustomEvent(`live:${event.type}`, { detail: { job, body } }));
  }

  // A component may arrive in the page after the news of its job: a quick job ends before the answer to its upload is in.
  function catchUp() {
    for (const el of document.querySelectorAll("[data-job]")) {
      const news = latest.get(el.dataset.job), there = el.querySelector("[data-poll]");
      if (!news || !there || there.dataset.state === news.state) continue;
      swap(el.dataset.job, news.html, news.state);
      tellState(el.dataset.job);
    }
  }

  function onOther(event) {
    if (!isNew(event.lastEventId)) return;
    document.dispatchEvent(new CustomEvent(`live:${event.type}`, { detail: JSON.parse(event.data) }));
  }

  function setState(open) {
    if (isOpen && !open) lostAt = Date.now();  // trying again does not begin the wait anew
    isOpen = open;
    const label = document.querySelector("[data-live-state]");
    if (label) label.textContent = open ? "live" : source ? "connecting…" : "";
  }

  function open() {
    const url = document.body.dataset.live;
    if (!url || source || document.hidden) return;
    source = new EventSource(last ? `${url}?last=${last}` : url);
    source.onopen = () => setState(true);
    source.onerror = () => setState(false);
    // What happened between the page and its stream came by neither: read the state again.
    source.addEventListener("hello", (event) => {
      last = event.lastEventId;
      poll();
      document.querySelectorAll("[data-job-url]").forEach((el) => el.contains(document.activeElement) || tell(el));
    });
    source.addEventListener("resync", poll);
    for (const kind of ["state", "progress"]) source.addEventListener(kind, onChange);
    for (const kind of ["step", "eval", "checkpoint", "chat", "sample", "log", "warning", "row"]) source.addEventListener(kind, onOther);
    setState(false);
  }

  // A hidden tab gives its connection back: a browser has six for a host. It catches up when it is shown again.
  function close() { source?.close(); source = null; setState(false); }

  async function poll() {
    // What is shown may be swapped while an answer is awaited: what to ask is gathered before.
    const shownJobs = [...document.querySelectorAll("[data-job] [data-poll]")];
    const urls = new Map(shownJobs.map((el) => [el.closest("[data-job]").dataset.job, el.dataset.poll]));
    for (const [job, url] of urls) {
      const answer = await fetch(url, { headers: { "X-Requested-With": "fetch" } }).catch(() => null);
      if (!answer || !answer.ok || answer.redirected) continue;
      const html = await answer.text();
      const state = /data-state="(\w+)"/.exec(html)?.[1];
      if (swap(job, html, state)) tellState(job);
    }
    document.dispatchEvent(new CustomEvent("live:poll"));
  }

  for (const kind of ["htmx:afterSettle", "live:inserted"]) document.addEventListener(kind, catchUp);
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  addEventListener("pagehide", close);
  addEventListener("pageshow", open);
  document.addEventListener("DOMContentLoaded", open);
  setInterval(() => {
    if (document.hidden || isOpen || !document.body.dataset.live) return;
    if (Date.now() - lostAt > GIVE_UP_MS) poll();
    if (source && source.readyState === EventSource.CLOSED) { close(); open(); }
  }, POLL_MS);
})();
