// Uploads one file after another with a progress bar each; without this script the form sends them all at once.
(() => {
  const form = document.querySelector("[data-upload]");
  if (!form) return;
  const [input, folder] = form.querySelectorAll("input[type=file]");
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
    const found = [...holder.querySelectorAll("template[data-row]")]; // several of an archive
    const rows = document.querySelector("[data-upload-rows]");
    for (const row of found) {
      rows?.prepend(row.content.cloneNode(true));
      row.remove();
    }
    if (found.length && rows) { htmx.process(rows); document.dispatchEvent(new Event("live:inserted")); }
    item.append(holder);
    return found.length > 0 && !rows;
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
    if (folder) folder.value = "";
    if (isFirst) location.reload();
  }

  // A folder that is dropped is walked; what lies in it comes one by one as if it had been chosen.
  async function walked(entry) {
    if (entry.isFile) return [await new Promise((done, broken) => entry.file(done, broken))];
    const reader = entry.createReader();
    const files = [];
    for (;;) {
      const some = await new Promise((done, broken) => reader.readEntries(done, broken));
      if (!some.length) return files;
      for (const each of some) files.push(...await walked(each));
    }
  }

  async function dropped(transfer) {
    const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    if (!entries.some((entry) => entry.isDirectory)) return upload([...transfer.files]);
    return upload((await Promise.all(entries.map(walked))).flat().filter((file) => !file.name.startsWith(".")));
  }

  folder?.addEventListener("change", () => upload([...folder.files].filter((file) => !file.name.startsWith("."))));
  form.addEventListener("submit", (event) => { event.preventDefault(); upload([...input.files]); });
  for (const kind of ["dragover", "dragenter"]) zone.addEventListener(kind, (event) => { event.preventDefault(); zone.classList.add("is-over"); });
  for (const kind of ["dragleave", "drop"]) zone.addEventListener(kind, () => zone.classList.remove("is-over"));
  zone.addEventListener("drop", (event) => { event.preventDefault(); dropped(event.dataTransfer); });
})();
