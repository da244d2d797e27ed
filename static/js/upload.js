// Uploads one file after another with a progress bar each; without this script the form sends them all at once.
(() => {
  const form = document.querySelector("[data-upload]");
  if (!form) return;
  const input = form.querySelector("input[type=file]");
  const list = form.querySelector("[data-upload-list]");
  const zone = form.querySelector("[data-drop]");
  const limit = Number(form.dataset.maxMb) * 2 ** 20;
  const most = Number(form.dataset.maxFiles);

  function line(file) {
    const item = document.createElement("li");
    item.className = "mt-2";
    const name = document.createElement("span");
    name.textContent = file.name;
    const bar = document.createElement("progress");
    bar.className = "upload-bar";
    bar.max = 1;
    bar.value = 0;
    bar.setAttribute("aria-label", `Upload of ${file.name}`);
    item.append(name, bar);
    list.append(item);
    return { item, bar };
  }

  function fail(item, text) {
    const note = document.createElement("div");
    note.className = "text-danger";
    note.setAttribute("role", "alert");
    note.textContent = text;
    item.append(note);
  }

  function show(item, html) {
    const holder = document.createElement("div");
    holder.innerHTML = html;
    const row = holder.querySelector("template[data-row]");
    const rows = document.querySelector("[data-upload-rows]");
    if (row && rows) { rows.prepend(row.content.cloneNode(true)); htmx.process(rows); document.dispatchEvent(new Event("live:inserted")); }
    row?.remove();
    item.append(holder);
    return Boolean(row) && !rows;
  }

  function send(file) {
    const { item, bar } = line(file);
    if (file.size > limit) { bar.remove(); fail(item, `larger than ${form.dataset.maxMb} MB: split it, or ask the operator`); return Promise.resolve(false); }
    return new Promise((done) => {
      const request = new XMLHttpRequest();
      const body = new FormData();
      body.append("csrfmiddlewaretoken", form.elements.csrfmiddlewaretoken.value);
      body.append("files", file);
      request.upload.onprogress = (event) => { if (event.lengthComputable) bar.value = event.loaded / event.total; };
      request.onload = () => {
        bar.remove();
        if (request.status === 200) done(show(item, request.responseText));
        else { fail(item, `the server refused it (${request.status}); reload the page and try again`); done(false); }
      };
      request.onerror = () => { bar.remove(); fail(item, "the connection broke; choose the file again"); done(false); };
      request.open("POST", form.action);
      request.setRequestHeader("X-Requested-With", "fetch");
      request.send(body);
    });
  }

  async function upload(files) {
    if (files.length > most) { fail(list, `At most ${most} files at once.`); return; }
    let isFirst = false;
    for (const file of files) isFirst = (await send(file)) || isFirst;
    input.value = "";
    if (isFirst) location.reload();
  }

  form.addEventListener("submit", (event) => { event.preventDefault(); upload([...input.files]); });
  for (const kind of ["dragover", "dragenter"]) zone.addEventListener(kind, (event) => { event.preventDefault(); zone.classList.add("is-over"); });
  for (const kind of ["dragleave", "drop"]) zone.addEventListener(kind, () => zone.classList.remove("is-over"));
  zone.addEventListener("drop", (event) => { event.preventDefault(); upload([...event.dataTransfer.files]); });
})();
