// Light or dark: what the person chose, here or in the profile, else what the system says. Runs before the first paint.
(() => {
  const KEY = "finetune-theme";  // Django's administration keeps its own under "theme"
  const root = document.documentElement;
  const stored = () => { try { return localStorage.getItem(KEY); } catch { return null; } };
  const system = matchMedia("(prefers-color-scheme: dark)");
  const chosen = () => root.dataset.theme || ("person" in root.dataset ? "" : stored()) || (system.matches ? "dark" : "light");
  const apply = () => root.setAttribute("data-bs-theme", chosen());
  apply();
  system.addEventListener("change", apply);
  document.addEventListener("click", (event) => {
    const toggle = event.target.closest("[data-theme-toggle]");
    if (!toggle) return;
    const next = root.getAttribute("data-bs-theme") === "dark" ? "light" : "dark";
    try { localStorage.setItem(KEY, next); } catch { /* private mode: the profile keeps it */ }
    root.dataset.theme = next;
    apply();
    // Kept for the person's other browsers; this one shows it whether or not that comes through.
    const headers = JSON.parse(document.body.getAttribute("hx-headers"));
    fetch(toggle.dataset.themeToggle, { method: "POST", headers, body: new URLSearchParams({ theme: next }) }).catch(() => {});
  });
})();
