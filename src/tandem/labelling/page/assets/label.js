// Keys, timing, saving. Without this file the page works with buttons and links alone.
"use strict";
(() => {
  const AUTO = "tandem-save-at-once";
  const KEEP_EVERY = 60000;
  const RETRY_AFTER = [500, 1000, 2000, 4000, 8000, 15000];
  const state = { visible: 0, since: null, tries: 0, isSame: false, draft: {} };

  const $ = (query) => document.querySelector(query);
  const work = () => $("#work");
  const say = (text, bad = false) => {
    const line = $("#state");
    if (!line) return;
    line.textContent = text;
    line.classList.toggle("bad", bad);
  };

  // ---- seconds that the question was in view
  const resume = () => { if (state.since === null && !document.hidden) state.since = performance.now(); };
  const pause = () => {
    if (state.since !== null) state.visible += performance.now() - state.since;
    state.since = null;
  };
  const restart = () => { state.visible = 0; state.since = null; resume(); };
  document.addEventListener("visibilitychange", () => (document.hidden ? pause() : resume()));

  const device = () => (matchMedia("(pointer: coarse)").matches || innerWidth < 640 ? "phone" : "desktop");

  const stamp = (form) => {
    pause();
    resume();
    const seconds = form.querySelector("[name=seconds]");
    if (seconds) seconds.value = (state.visible / 1000).toFixed(2);
    const kind = form.querySelector("[name=device]");
    if (kind) kind.value = device();
  };

  // ---- saving
  const submit = (id) => { const form = $(id); if (form) form.requestSubmit(); };
  const isAnswered = () => {
    if (!$("#vote")) return false;
    if (work().dataset.kind === "ranking") {
      return [...document.querySelectorAll("#vote select")].filter((s) => s.value).length > 1;
    }
    return Boolean($("#vote input[name=choice]:checked, #vote input[name=both_bad]:checked"));
  };
  const isAuto = () => localStorage.getItem(AUTO) === "yes";

  document.addEventListener("submit", (event) => {
    if (event.target.id === "vote" && !isAnswered()) {
      event.preventDefault();
      event.stopImmediatePropagation();
      say("Choose an answer first, or skip the question.", true);
      return;
    }
    stamp(event.target);
  }, true);

  document.addEventListener("htmx:configRequest", (event) => {
    // what the form held before the stamp is replaced
    const form = event.target.closest("form");
    if (!form) return;
    for (const name of ["seconds", "device"]) {
      const input = form.querySelector(`[name=${name}]`);
      if (input && event.detail.parameters.set) event.detail.parameters.set(name, input.value);
    }
  });
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (event.target.matches("#vote, #skipping")) {
      say("Saving…");
      work().setAttribute("aria-busy", "true");
      work().classList.add("saving");
    }
  });
  const again = (event) => {
    const form = event.target;
    const wait = RETRY_AFTER[Math.min(state.tries, RETRY_AFTER.length - 1)];
    state.tries += 1;
    say(`Not saved yet. Trying again${state.tries > 1 ? ` (${state.tries})` : ""}…`, true);
    // the same key: a vote that arrived is not counted twice
    setTimeout(() => { if (form.isConnected && form.requestSubmit) form.requestSubmit(); }, wait);
  };
  const settle = () => { work().removeAttribute("aria-busy"); work().classList.remove("saving"); };
  document.addEventListener("htmx:sendError", (event) => { settle(); if (event.target.matches("form")) again(event); });
  document.addEventListener("htmx:responseError", (event) => {
    settle();
    const status = event.detail.xhr.status;
    if (status === 503 || status === 502 || status === 429) { again(event); return; }
    const answer = new DOMParser().parseFromString(event.detail.xhr.responseText, "text/html");
    const said = answer.querySelector("#state");
    say(said ? said.textContent : "Not saved. Reload the page.", true);
  });
  document.addEventListener("htmx:afterSwap", () => {
    state.tries = 0;
    opened();
  });

  // ---- what was typed stays when the same question is drawn again
  const DRAFT = "#work textarea, #vote select, #vote input[name=choice], #vote input[name=both_bad], #criteria input";
  const isTick = (input) => input.type === "radio" || input.type === "checkbox";
  const remember = () => {
    if (!work()) return;
    state.draft = {};
    for (const input of document.querySelectorAll(DRAFT)) {
      if (!isTick(input)) state.draft[input.name] = input.value;
      else if (input.checked) state.draft[input.name] = input.value;
    }
  };
  const recall = () => {
    for (const input of document.querySelectorAll(DRAFT)) {
      if (isTick(input)) input.checked = state.draft[input.name] === input.value;
      else input.value = state.draft[input.name] || "";
      const box = input.closest("details.box");
      if (box && input.value && (!isTick(input) || input.checked)) box.open = true;
    }
  };
  document.addEventListener("htmx:beforeSwap", (event) => {
    state.isSame = event.detail.requestConfig.elt.id === "differences";
    if (state.isSame) remember();
  });

  // ---- a question is on the page
  const opened = () => {
    if (!work()) return;
    if (state.isSame) recall(); else restart();
    state.isSame = false;
    const rubric = $(".rubric details");
    if (rubric && innerWidth < 800) rubric.open = false;
    const auto = $("#auto");
    if (auto) {
      auto.checked = isAuto();
      auto.addEventListener("change", () => localStorage.setItem(AUTO, auto.checked ? "yes" : "no"));
    }
    for (const input of document.querySelectorAll("#vote input[name=choice]")) {
      input.addEventListener("click", (event) => {
        // a click by pointer or key, not a choice that arrow keys pass over
        if (isAuto() && event.detail > 0) submit("#vote");
      });
    }
    const heading = $("#ask");
    if (heading) heading.focus({ preventScroll: true });
    scrollTo({ top: 0, behavior: "instant" });
  };

  // ---- keys
  const isTyping = (target) => target.matches("textarea, select, input:not([type=radio]):not([type=checkbox])");
  const toggle = (id, focus) => {
    const box = $(id);
    if (!box) return;
    box.open = !box.open;
    const inside = box.open && focus ? box.querySelector(focus) : box.querySelector("summary");
    if (inside) inside.focus();
  };
  const choose = (digit) => {
    const input = $(`#vote input[name=choice][value="${digit}"]`);
    if (!input) return;
    input.checked = true;
    input.focus({ preventScroll: true });
    if (isAuto()) submit("#vote");
  };
  const rank = (digit) => {
    const selects = [...document.querySelectorAll("#vote select")];
    const mine = selects[digit - 1];
    if (!mine) return;
    if (mine.value) {
      // taken back: those behind it move up
      const old = Number(mine.value);
      mine.value = "";
      for (const s of selects) if (Number(s.value) > old) s.value = String(Number(s.value) - 1);
    } else {
      mine.value = String(1 + selects.filter((s) => s.value).length);
    }
    const order = selects.map((s, k) => [Number(s.value), k + 1]).filter(([r]) => r).sort((a, b) => a[0] - b[0]);
    say(order.length ? `Order: ${order.map(([, k]) => k).join(", ")}` : "No order yet");
  };
  const keys = {
    b: () => { const box = $("#vote input[name=both_bad]"); if (box) { box.checked = !box.checked; box.focus({ preventScroll: true }); } },
    s: () => toggle("#skip", "select"),
    u: () => submit("#undo"),
    r: () => toggle("#why", "textarea"),
    w: () => toggle("#better", "textarea"),
    c: () => toggle("#criteria", "input:checked"),
    d: () => { const link = $("#differences"); if (link) link.click(); },
    a: () => { const auto = $("#auto"); if (auto) { auto.checked = !auto.checked; auto.dispatchEvent(new Event("change")); say(auto.checked ? "A key saves at once." : "Enter saves."); } },
    "?": () => toggle("#help"),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || !work()) return;
    const target = event.target;
    if (event.key === "Escape") {
      const box = target.closest("details.box");
      if (box) {
        // what was written stays in view; then Enter saves
        const text = box.querySelector("textarea");
        box.open = Boolean(text ? text.value : box.querySelector("input:checked:not([value=''])"));
        const row = $("#vote input:checked, #vote input[name=choice], #vote select");
        (row || box.querySelector("summary")).focus({ preventScroll: true });
      }
      return;
    }
    if (isTyping(target)) {
      if (event.key === "Enter" && (target.matches("select") || event.shiftKey) && target.form) {
        event.preventDefault();
        target.form.requestSubmit();
      }
      return;
    }
    if (event.key === "Enter") {
      if (target.matches("button, a, summary, input[type=checkbox]#auto")) return;
      event.preventDefault();
      submit("#vote");
      return;
    }
    if (/^[1-9]$/.test(event.key)) {
      event.preventDefault();
      if (work().dataset.kind === "ranking") rank(Number(event.key)); else choose(event.key);
      return;
    }
    const does = keys[event.key];
    if (does) { event.preventDefault(); does(); }
  });

  // ---- the place is kept while the page is open and in view
  setInterval(() => {
    if (!work() || !work().dataset.token || document.hidden) return;
    const token = $("#vote input[name=_csrf_token]");
    if (!token) return;
    fetch(`/label/${work().dataset.token}/keep`, {
      method: "POST",
      headers: { "X-CSRFToken": token.value },
    }).catch(() => {});
  }, KEEP_EVERY);

  document.documentElement.classList.add("scripted");
  opened();
})();
