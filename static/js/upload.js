// Adding documents: files dropped anywhere or chosen in the dialog are sent with progress; the server answers with a
// card that follows the index run by itself.

const dialog = document.getElementById("upload-dialog");
const tray = document.getElementById("upload-tray");

function fault(text) {
  document.dispatchEvent(new CustomEvent("zenglow:fault", { detail: text }));
}

function megabytes(count) {
  return new Intl.NumberFormat(undefined, { style: "unit", unit: "megabyte", maximumFractionDigits: 1 }).format(count / 1e6);
}

// --- sending ----

function card(files) {
  const item = document.getElementById("upload-template").content.firstElementChild.cloneNode(true);
  const [first] = files;
  item.querySelector("[data-title]").textContent = files.length === 1 ? first.name : `${files.length} files`;
  tray.prepend(item);
  return item;
}

// What the server sent back: a card for the tray, or the reason of a refusal.
function answerOf(request) {
  const body = new DOMParser().parseFromString(request.responseText, "text/html");
  const reason = body.querySelector("#problem .detail")?.textContent;
  return { answer: body.querySelector("[data-upload-answer]"), reason };
}

// As few requests as the server's limits allow; a file that is too large alone is left to the server to refuse.
function batches(form, files) {
  const mostFiles = Number(form.dataset.maxFiles);
  const mostBytes = Number(form.dataset.maxBytes) * 0.95;
  const found = [];
  let size = Infinity;
  for (const file of files) {
    const current = found.at(-1);
    if (!current || size + file.size > mostBytes || current.length >= mostFiles) {
      found.push([file]);
      size = file.size;
    } else {
      current.push(file);
      size += file.size;
    }
  }
  return found;
}

async function send(form, files, collection) {
  if (!files.length) {
    fault("There are no files in what was dropped.");
    return;
  }
  for (const batch of batches(form, files)) {
    if (!(await sendBatch(form, batch, collection))) return;
  }
}

// Whether the files were taken in.
function sendBatch(form, files, collection) {
  const data = new FormData();
  data.append("collection", collection);
  for (const file of files) data.append("files", file, file.name);
  // Servers see only the last part of a file's name; the folders go beside it.
  data.append("paths", JSON.stringify(files.map((file) => file.path ?? file.name)));
  const item = card(files);
  const bar = item.querySelector("progress");
  const status = item.querySelector("[data-status]");
  const cancel = item.querySelector("[data-cancel]");

  return new Promise((resolve) => {
    const request = new XMLHttpRequest();
    const fail = (text) => {
      item.remove();
      if (text) fault(text);
      resolve(false);
    };
    request.open("POST", form.action);
    request.setRequestHeader("X-CSRFToken", form.elements.csrfmiddlewaretoken.value);
    request.setRequestHeader("HX-Request", "true");
    request.upload.addEventListener("progress", (event) => {
      if (!event.lengthComputable) return;
      bar.value = event.loaded / event.total;
      status.textContent = `${megabytes(event.loaded)} of ${megabytes(event.total)} sent`;
    });
    request.upload.addEventListener("load", () => {
      bar.removeAttribute("value");
      status.textContent = "Sent. The server is taking it in…";
      cancel.hidden = true;
    });
    request.addEventListener("load", () => {
      const redirect = request.getResponseHeader("HX-Redirect");
      if (redirect) {
        window.location.assign(redirect);
        return;
      }
      const { answer, reason } = answerOf(request);
      if (!answer) {
        fail(reason ?? `The server answered ${request.status}. Nothing was added.`);
        return;
      }
      item.replaceWith(answer);
      window.htmx.process(answer);
      resolve(request.status < 400);
    });
    request.addEventListener("error", () =>
      fail("The upload was cut off. Check that the server runs and that the files are not too large, then try again."),
    );
    request.addEventListener("abort", () => fail());
    cancel.addEventListener("click", () => request.abort());
    request.send(data);
  });
}

// --- choosing in the dialog ----

document.addEventListener("click", (event) => {
  if (event.target.closest?.("[data-open-upload]") && dialog) {
    event.preventDefault();
    dialog.showModal();
  }
  if (event.target.closest?.("#upload-dialog [data-close]") || event.target === dialog) dialog.close();
  const dismiss = event.target.closest?.("#upload-tray [data-dismiss]");
  if (dismiss) dismiss.closest(".tray-item").remove();
});

const form = dialog?.querySelector("form");
form?.addEventListener("submit", (event) => {
  event.preventDefault();
  send(form, [...form.elements.files.files], form.elements.collection.value);
  form.elements.files.value = "";
  dialog.close();
});

// --- dropping anywhere ----

async function walk(entry, found) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => {
      entry.file(resolve, reject);
    });
    file.path = entry.fullPath.replace(/^\//, "");
    found.push(file);
  } else if (entry.isDirectory) {
    const reader = entry.createReader();
    for (;;) {
      const batch = await new Promise((resolve, reject) => {
        reader.readEntries(resolve, reject);
      });
      if (!batch.length) break;
      for (const child of batch) await walk(child, found);
    }
  }
}

async function dropped(transfer) {
  // The entries must be taken before the first wait: the browser empties the transfer afterwards.
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files];
  const found = [];
  for (const entry of entries) await walk(entry, found);
  return found;
}

function carriesFiles(event) {
  return Boolean(form) && [...(event.dataTransfer?.types ?? [])].includes("Files");
}

// The field with the collection to fill: the page's own where it shows one, else the dialog's.
function target() {
  const shown = document.querySelector("[data-current-collection]");
  return shown?.value && !dialog.open ? shown : form.elements.collection;
}

// Entering a child element leaves its parent: only when both are balanced the pointer is outside.
let depth = 0;
function veil(isShown) {
  if (!isShown) depth = 0;
  document.body.classList.toggle("is-dropping", isShown);
}

window.addEventListener("dragenter", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  depth += 1;
  for (const name of document.querySelectorAll("[data-drop-collection]")) {
    name.textContent = target().selectedOptions[0].text;
  }
  veil(true);
});
window.addEventListener("dragover", (event) => {
  if (carriesFiles(event)) event.preventDefault();
});
window.addEventListener("dragleave", (event) => {
  if (!carriesFiles(event)) return;
  depth -= 1;
  if (depth <= 0) veil(false);
});
window.addEventListener("drop", async (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  veil(false);
  const collection = target().value;
  dialog.close();
  try {
    await send(form, await dropped(event.dataTransfer), collection);
  } catch {
    fault("The browser could not read what was dropped. Choose the files instead.");
  }
});
