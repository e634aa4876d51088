"use strict";
// The sample browser: one prompt at a time, in an order that the reader chooses.
// Without this script every sample is on the page, in random order.
(() => {
  const browser = document.getElementById("browser");
  if (!browser) return;
  const samples = Array.from(browser.querySelectorAll(".sample"));
  const order = document.getElementById("order");
  const place = document.getElementById("place");
  const buttons = {
    previous: document.getElementById("previous"),
    next: document.getElementById("next"),
  };
  let queue = samples;
  let at = 0;

  // Largest first; equal ones stay in random order. Where nothing disagrees, nothing is shown.
  function sorted(key) {
    const value = (sample) => Number(sample.dataset[key]);
    const rows = key === "random" || key === "length"
      ? samples.slice()
      : samples.filter((sample) => value(sample) > 0);
    return rows.sort((a, b) => value(b) - value(a));
  }

  function show(k) {
    at = Math.max(0, Math.min(queue.length - 1, k));
    for (const sample of samples) sample.hidden = sample !== queue[at];
    place.textContent = queue.length
      ? `${at + 1} of ${queue.length}`
      : "no sample of this kind";
    buttons.previous.setAttribute("aria-disabled", String(at <= 0));
    buttons.next.setAttribute("aria-disabled", String(at >= queue.length - 1));
  }

  function reorder() {
    queue = sorted(order.value);
    show(0);
  }

  const keys = {
    j: () => show(at + 1),
    ArrowRight: () => show(at + 1),
    k: () => show(at - 1),
    ArrowLeft: () => show(at - 1),
    Home: () => show(0),
    End: () => show(queue.length - 1),
  };

  // Keys work while the focus is inside the browser, so that they surprise nobody elsewhere.
  browser.addEventListener("keydown", (event) => {
    const action = keys[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target instanceof HTMLSelectElement) return;
    event.preventDefault();
    action();
  });

  buttons.previous.addEventListener("click", () => show(at - 1));
  buttons.next.addEventListener("click", () => show(at + 1));
  order.addEventListener("change", reorder);
  browser.querySelector(".controls").hidden = false;
  reorder();
})();
