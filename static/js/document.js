// The page's picture and what was read from it: pointing at one lights the other.
(() => {
  const twin = (node) => {
    const mark = node.closest("[data-mark]");
    if (mark) return [mark, document.getElementById(mark.dataset.mark)];
    const element = node.closest(".element");
    return element ? [document.querySelector(`[data-mark="${element.id}"]`), element] : [];
  };

  // What is wrong with a correction is shown in its form.
  document.addEventListener("htmx:beforeSwap", (event) => {
    if (event.detail.xhr.status === 422 && event.detail.target.matches("form.element")) event.detail.shouldSwap = true;
  });

  function light(event, isLit) {
    for (const node of twin(event.target)) node?.classList.toggle("is-lit", isLit);
  }

  for (const [name, isLit] of [["pointerover", true], ["pointerout", false], ["focusin", true], ["focusout", false]]) {
    document.addEventListener(name, (event) => { if (event.target instanceof Element) light(event, isLit); });
  }

  // A click on an element shows its place, wherever the picture is scrolled to.
  document.addEventListener("click", (event) => {
    const element = event.target.closest(".element");
    const mark = element && document.querySelector(`[data-mark="${element.id}"]`);
    if (!mark) return;
    document.querySelectorAll("[data-mark].is-chosen").forEach((other) => other.classList.remove("is-chosen"));
    mark.classList.add("is-chosen");
    mark.scrollIntoView({ block: "nearest" });
  });
})();
