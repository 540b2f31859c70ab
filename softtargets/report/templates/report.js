"use strict";
(() => {
  let temperature = 0;
  let shown = null;
  const isWide = matchMedia("(min-width: 821px)");
  const panel = document.getElementById("prediction");
  const source = document.getElementById("data");
  const data = source ? JSON.parse(source.textContent) : { names: {}, windows: [] };
  const shadeBy = document.querySelector(".examples")?.dataset.shade;
  const steps = { label: [0.5, 0.1, 0.01, 0.001], tail: [0.01, 0.1, 0.3, 0.6] };

  // As percent_text in texts.py does.
  function percent(share) {
    if (share === null) return "-";
    const number = 100 * share;
    if (number > 0 && number < 0.01) return "<0.01%";
    if (number >= 99.995 && number < 100) return ">99.99%";
    return number.toFixed(number >= 10 && number < 99.95 ? 1 : 2) + "%";
  }

  function element(tag, name, text) {
    const made = document.createElement(tag);
    if (name) made.className = name;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function row(name, share, kind) {
    const made = element("li", kind);
    const choice = element("span", "choice", name);
    choice.title = name;
    const meter = element("span", "meter");
    const filled = element("span");
    filled.style.width = `${100 * (share ?? 0)}%`;
    meter.append(filled);
    made.append(choice, meter, element("span", "percent", percent(share)));
    if (share !== null) made.dataset.p = share;
    return made;
  }

  function predictionOf(token) {
    const number = token.closest("[data-window]").dataset.window;
    return data.windows[number][token.dataset.target];
  }

  function rows(target) {
    const list = element("ol");
    const label = target.label?.id;
    for (const [id, draws, ...shares] of target.top ?? []) {
      const name = data.names[id] + (draws ? `  drawn ${draws}\u00d7` : "");
      list.append(row(name, shares[temperature] ?? null, id === label ? "label" : ""));
    }
    if (target.more) {
      list.append(element("li", "rest more", `and ${target.more} more that are kept`));
    }
    if (target.tail) list.append(row("all others: the tail", target.tail[temperature], "rest tail"));
    return list;
  }

  function drawnRows(target) {
    const list = element("ol", "drawn");
    for (const [id, draws, ...shares] of target.drawn) {
      const name = data.names[id] + (draws > 1 ? `  ${draws}\u00d7` : "");
      list.append(row(name, shares[temperature] ?? null, id === target.label?.id ? "label" : ""));
    }
    return list;
  }

  function facts(token, target) {
    const lines = [];
    const label = target.label;
    if (label) {
      const parts = [`came: ${data.names[label.id]}`];
      if (label.rank !== null) parts.push(`place ${(label.rank + 1).toLocaleString("en")}`);
      const share = label.p[temperature] ?? null;
      if (share !== null) {
        parts.push(percent(share), share > 0 ? `${(0 - Math.log(share)).toFixed(2)} nats` : "ruled out");
      }
      lines.push(parts.join(", "));
    }
    if (target.entropy) lines.push(`entropy ${target.entropy[temperature].toFixed(2)} nats`);
    if (token.classList.contains("masked")) lines.push("a student is not trained on it");
    return lines.map((text) => element("p", "", text));
  }

  function show(token) {
    if (shown) shown.classList.remove("shown");
    shown = token;
    shown.classList.add("shown");
    const target = predictionOf(token);
    const close = element("button", "close", "\u00d7");
    close.setAttribute("aria-label", "Close");
    close.addEventListener("click", hide);
    const title = element("h3");
    title.append("Before ", element("span", "came", token.textContent), " the teacher expected");
    panel.replaceChildren(close, title, rows(target));
    if (target.drawn) {
      const more = target.drawn_more ? `, ${target.drawn_more} more` : "";
      panel.append(element("p", "", `Drawn from the tail${more}:`), drawnRows(target));
    }
    panel.append(...facts(token, target));
    panel.hidden = false;
    document.body.classList.add("open");
    if (!isWide.matches) token.scrollIntoView({ block: "nearest" });
  }

  function hide() {
    if (shown) shown.classList.remove("shown");
    shown = null;
    panel.hidden = true;
    document.body.classList.remove("open");
  }

  function shade(token) {
    const target = predictionOf(token);
    const share = shadeBy === "label" ? target.label?.p[temperature] : target.tail?.[temperature];
    for (let level = 0; level < 5; level += 1) token.classList.remove(`s${level}`);
    if (share === undefined || token.classList.contains("masked")) return;
    const passed = steps[shadeBy].filter((step) => (shadeBy === "label" ? share < step : share >= step));
    token.classList.add(`s${passed.length}`);
  }

  function setTemperature(index) {
    temperature = index;
    for (const one of document.querySelectorAll("[data-t]")) one.hidden = Number(one.dataset.t) !== index;
    if (shadeBy) document.querySelectorAll(".token[data-target]").forEach(shade);
    if (shown) show(shown);
  }

  function walk(event) {
    const token = event.target.closest(".token[data-target]");
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!token || !step) return;
    const all = [...token.closest(".text").querySelectorAll("[data-target]")];
    const next = all[all.indexOf(token) + step];
    if (!next) return;
    event.preventDefault();
    token.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  for (const input of document.querySelectorAll("input[name=temperature]")) {
    input.addEventListener("change", () => setTemperature(Number(input.value)));
    if (input.checked) temperature = Number(input.value);
  }
  for (const text of document.querySelectorAll(".text")) {
    const first = text.querySelector("[data-target]");
    if (first) first.tabIndex = 0;
    for (const kind of ["pointerover", "focusin", "click"]) {
      text.addEventListener(kind, (event) => {
        const token = event.target.closest("[data-target]");
        if (token && (kind !== "pointerover" || event.pointerType === "mouse")) show(token);
      });
    }
    text.addEventListener("keydown", walk);
  }
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && shown) hide();
  });
  setTemperature(temperature);
  const first = document.querySelector(".token[data-target]:not(.masked)");
  if (first && isWide.matches) show(first);
})();
