// Uploads one file after another with a progress bar each; without this script the form sends them all at once.
(() => {
  const form = document.querySelector("[data-upload]");
  if (!form) return;
  const [input, folder] = form.querySelectorAll("input[type=file]");
  const list = form.querySelector("[data-upload-list]");
  const zone = form.querySelector("[data-drop]");
  const limit = Number(form.dataset.maxMb) * 2 ** 20;
  const most = Number(form.dataset.maxFiles);
  const partBytes = Number(form.dataset.partBytes);

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

  class Refused extends Error {}

  // One request; rejects with Refused for an answer that says no, with another error where none came.
  function ask(method, url, body, headers, onprogress) {
    return new Promise((done, broken) => {
      const request = new XMLHttpRequest();
      request.upload.onprogress = (event) => { if (event.lengthComputable) onprogress?.(event.loaded); };
      request.onload = () => {
        const isThere = new URL(request.responseURL || url, location).pathname === new URL(url, location).pathname;
        if (!isThere) return broken(new Refused("you are logged out; log in, and choose the file again"));
        if (request.status === 200) return done(request);
        if (request.status >= 502 || request.status === 400) return broken(new Error("no answer"));
        let told = `the server refused it (${request.status}); reload the page and try again`;
        try { told = JSON.parse(request.responseText).error || told; } catch { /* a page, not JSON */ }
        broken(Object.assign(new Refused(told), { status: request.status }));
      };
      request.onerror = () => broken(new Error("no answer"));
      request.open(method, url);
      request.setRequestHeader("X-Requested-With", "fetch");
      request.setRequestHeader("X-CSRFToken", form.elements.csrfmiddlewaretoken.value);
      for (const [name, value] of Object.entries(headers || {})) request.setRequestHeader(name, value);
      request.send(body);
    });
  }

  // Tries again while no answer comes, longer apart each time; a network that is back is noticed at once.
  async function persist(act, item) {
    const note = document.createElement("div");
    note.className = "text-warning";
    for (let wait = 1; ; wait *= 2) {
      try {
        const answer = await act();
        note.remove();
        return answer;
      } catch (error) {
        if (error instanceof Refused || wait > 64) { note.remove(); throw error; }
        note.textContent = "the connection broke; trying again";
        item.append(note);
        await new Promise((again) => {
          setTimeout(again, wait * 1000);
          addEventListener("online", again, { once: true });
        });
      }
    }
  }

  // A small file at once: sent twice, it is recognised by its content.
  async function whole(file, { item, bar }) {
    const body = () => { const filled = new FormData(); filled.append("files", file); return filled; };
    const answer = await persist(() => ask("POST", form.action, body(), {}, (sent) => { bar.value = sent / Math.max(file.size, 1); }), item);
    return answer.responseText;
  }

  // A large one part by part. Which upload it is, is remembered: chosen again after a reload it goes on where it ended.
  async function inParts(file, { item, bar }) {
    const key = `upload ${form.dataset.begin} ${file.name} ${file.size} ${file.lastModified}`;
    let state = null;
    if (localStorage.getItem(key)) {
      try {
        state = JSON.parse((await persist(() => ask("GET", localStorage.getItem(key)), item)).responseText);
      } catch (error) {
        if (error.status !== 404) throw error; // 404: too long ago
      }
    }
    if (!state) {
      const body = new FormData();
      body.append("name", file.name);
      body.append("size", file.size);
      state = JSON.parse((await persist(() => ask("POST", form.dataset.begin, body), item)).responseText);
      localStorage.setItem(key, state.url);
    }
    for (;;) {
      const start = state.arrived;
      bar.value = start / file.size;
      bar.title = `${Math.round(100 * bar.value)} %`;
      const part = file.slice(start, start + partBytes);
      const answer = await persist(
        () => ask("POST", state.url, part, { "Content-Type": "application/octet-stream", "Upload-Offset": start },
          (sent) => { bar.value = (start + sent) / file.size; }), item);
      if (!answer.getResponseHeader("Content-Type").startsWith("application/json")) {
        // What failed may have failed for want of room: then nothing is sent again.
        if (!answer.responseText.includes('data-result="error"')) localStorage.removeItem(key);
        return answer.responseText;
      }
      state = JSON.parse(answer.responseText);
    }
  }

  async function send(file) {
    const row = line(file);
    if (file.size > limit) { row.bar.remove(); fail(row.item, `larger than ${form.dataset.maxMb} MB: split it, or ask the operator`); return false; }
    try {
      const html = await (file.size > partBytes ? inParts(file, row) : whole(file, row));
      return show(row.item, html);
    } catch (error) {
      const told = file.size > partBytes ? "the connection is gone; choose the file again when it is back, and the upload goes on where it ended"
        : "the connection is gone; choose the file again when it is back";
      fail(row.item, error instanceof Refused ? error.message : told);
      return false;
    } finally {
      row.bar.remove();
    }
  }

  async function upload(files) {
    if (files.length > most) { fail(list, `At most ${most} files at once.`); return; }
    let isFirst = false;
    for (const file of files) isFirst = (await send(file)) || isFirst;
    input.value = "";
    if (folder) folder.value = "";
    if (isFirst) await begin();
  }

  // The first documents of a project: their list comes into the page, and what was refused stays told beside it.
  async function begin() {
    const answer = await fetch(location.href).catch(() => null);
    const page = new DOMParser().parseFromString(answer ? await answer.text() : "", "text/html");
    const card = page.querySelector("[data-upload-rows]")?.closest(".card");
    const empty = document.querySelector("[data-upload-empty]");
    if (!card || !empty) { location.reload(); return; }
    empty.replaceWith(card);
    htmx.process(card);
    document.dispatchEvent(new Event("live:inserted"));
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
