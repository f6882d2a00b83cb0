// The page for fusion weights: two sliders whose values always sum to 1, and everything that follows them.

const form = document.querySelector("#weights-form");
const box = { ltr: form.elements.ltr, conceptual: form.elements.conceptual };
const slider = Object.fromEntries([...form.querySelectorAll("[data-slider]")].map((one) => [one.dataset.slider, one]));
const current = Number(form.dataset.current);
const split = form.querySelector("[data-split]");
const now = form.querySelector("[data-now]");
const summary = form.querySelector("[data-summary]");

const shown = (value) => String(Number(value.toFixed(4)));

function measured(ltr) {
  const plot = document.querySelector("[data-curve]");
  if (!plot) return;
  const values = plot.dataset.curve.split(" ").map(Number);
  const low = Math.floor(ltr * 100);
  const part = ltr * 100 - low;
  const value = values[low] + (part > 0 ? part * (values[low + 1] - values[low]) : 0);
  plot.querySelector("[data-at-sliders]").textContent = value.toFixed(4);
  const line = plot.querySelector("[data-proposed]");
  line.setAttribute("x1", ltr * 100);
  line.setAttribute("x2", ltr * 100);
}

// Shows a learned weight everywhere but in the control that it came from, whose digits are still being typed.
function show(ltr, from) {
  const weights = { ltr, conceptual: 1 - ltr };
  for (const name of ["ltr", "conceptual"]) {
    if (box[name] !== from) box[name].value = shown(weights[name]);
    if (slider[name] !== from) slider[name].value = Math.round(weights[name] * 100);
    slider[name].setAttribute("aria-valuetext", `${Math.round(weights[name] * 100)} %`);
  }
  split.setAttribute("width", ltr * 100);
  const moved = Math.round((ltr - current) * 10000) / 100;
  summary.textContent = moved ? `${moved > 0 ? "+" : "−"}${Math.abs(moved)} points of learned weight against now` : "These are the weights that are live.";
  measured(ltr);
  form.dispatchEvent(new CustomEvent("weights-changed", { bubbles: true }));
}

function chosen() {
  const ltr = Number(box.ltr.value);
  return ltr >= 0 && ltr <= 1 ? ltr : current;
}

for (const name of ["ltr", "conceptual"]) {
  slider[name].hidden = false;
  slider[name].addEventListener("input", () => {
    const value = Number(slider[name].value) / 100;
    show(name === "ltr" ? value : 1 - value, slider[name]);
  });
  box[name].addEventListener("input", () => {
    const value = Number(box[name].value);
    if (box[name].value !== "" && value >= 0 && value <= 1) show(name === "ltr" ? value : 1 - value, box[name]);
  });
}
form.querySelector("[data-reset]")?.addEventListener("click", () => show(current, null));
for (const button of document.querySelectorAll("[data-load]")) {
  button.addEventListener("click", () => {
    show(Number(button.dataset.load), null);
    form.scrollIntoView({ block: "nearest" });
    slider.ltr.focus();
  });
}
document.querySelector("#preview-collection")?.addEventListener("change", () => form.dispatchEvent(new CustomEvent("weights-changed", { bubbles: true })));
document.body.addEventListener("htmx:afterSwap", (event) => {
  if (event.target.id === "measurement") measured(chosen());
});

now.setAttribute("x1", current * 100);
now.setAttribute("x2", current * 100);
show(chosen(), null);
