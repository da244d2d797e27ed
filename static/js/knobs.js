// Greys out what does not go with the rest that is chosen, and says why beside it. The server says what (#barred-knobs).
// What a person has chosen or typed already stays: it is for them to take back.
document.addEventListener("htmx:afterSettle", () => {
  const told = document.getElementById("barred-knobs");
  if (!told) return;
  document.querySelectorAll("[data-barred]").forEach((reason) => reason.remove());
  const barred = JSON.parse(told.textContent);
  for (const field of document.querySelectorAll("#run-form details :is(select, input)")) {
    const found = barred[field.name];
    const options = [...(field.options ?? [])];
    options.forEach((option) => { option.disabled = Boolean(found?.values.includes(option.value) && !option.selected); });
    if (!options.length) field.disabled = Boolean(found && !field.value);
    if (!found) continue;
    const reason = document.createElement("div");
    reason.className = "form-hint text-warning-emphasis";
    reason.dataset.barred = field.name;
    reason.textContent = found.reason;
    field.closest(".mb-3").append(reason);
  }
});
