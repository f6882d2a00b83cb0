// What people make of results: opening one is a click, the two arrows are votes. Sent beside the page's own work, so
// that following a link never waits; a vote that could not be kept says so, a click that could not is no matter.

const headers = JSON.parse(document.body.getAttribute("hx-headers") ?? "{}");

function send(result, kind, value) {
  const body = { request_id: result.dataset.request, chunk_id: Number(result.dataset.chunk), kind };
  if (value !== undefined) body.value = value;
  return fetch(result.dataset.feedback, {
    method: "POST",
    credentials: "same-origin",
    keepalive: true, // it goes on when the page has been left
    headers: { "Content-Type": "application/json", ...headers },
    body: JSON.stringify(body),
  });
}

function clicked(event) {
  if (event.type === "auxclick" && event.button !== 1) return;
  const result = event.target.closest?.("a")?.closest("[data-feedback]");
  if (result) send(result, "click").catch(() => {});
}

async function voted(event) {
  const button = event.target.closest?.("[data-vote]");
  const result = button?.closest("[data-feedback]");
  if (!result) return;
  const buttons = result.querySelectorAll("[data-vote]");
  try {
    const response = await send(result, "vote", Number(button.dataset.vote));
    if (!response.ok) throw new Error((await response.json()).detail);
    for (const one of buttons) one.setAttribute("aria-pressed", String(one === button));
  } catch (error) {
    document.dispatchEvent(new CustomEvent("zenglow:fault", { detail: `Your vote was not kept. ${error.message}` }));
  }
}

document.addEventListener("click", clicked);
document.addEventListener("auxclick", clicked);
document.addEventListener("click", voted);
