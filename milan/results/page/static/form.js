// A form whose answers stay in the browser until they are saved as a file. Nothing is sent.
"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const data = JSON.parse(at("data").textContent);
  const form = at("form");
  milanPictures.fill(data);
  const place = `milan-form-${data.form}`;
  const start = Date.now();
  const items = data.parts.flatMap((part) => part.items.map((item) => ({ ...item, kind: part.kind, best: part.best })));

  const answer = (item) => {
    const values = new FormData(form);
    if (item.kind === "text") return { text: String(values.get(`text-${item.id}`) ?? "").trim() };
    if (item.kind === "choice") return { choice: values.has(`choice-${item.id}`) ? Number(values.get(`choice-${item.id}`)) : null };
    const ratings = Array.from({ length: item.options }, (_, number) => {
      const given = values.get(`rating-${item.id}-${number}`);
      return given === null ? null : Number(given);
    });
    return { ratings, best: values.getAll(`best-${item.id}`).map(Number) };
  };
  const whole = (item, given) =>
    item.kind === "text" ? given.text !== ""
      : item.kind === "choice" ? given.choice !== null
        : given.ratings.every((each) => each !== null) && (!item.best || given.best.length > 0);

  const all = () => Object.fromEntries(items.map((item) => [item.id, answer(item)]));
  const rater = () => (data.rater ? at("rater").value.trim() : "");

  const show = () => {
    let left = 0;
    for (const item of items) {
      const done = whole(item, answer(item));
      at(`item-${item.id}`).classList.toggle("done", done);
      left += !done;
    }
    at("left").textContent = left ? `${left} of ${items.length} not answered yet` : "All answered";
    return left;
  };
  const keep = () => {
    try {
      localStorage.setItem(place, JSON.stringify({ rater: rater(), answers: all() }));
    } catch { /* some browsers store nothing for files */ }
  };
  const set = (name, value) => {
    for (const each of form.elements) if (each.name === name && each.value === String(value)) each.checked = true;
  };
  const again = () => {
    let kept = null;
    try {
      kept = JSON.parse(localStorage.getItem(place));
    } catch { /* nothing was stored */ }
    if (!kept) return;
    if (data.rater) at("rater").value = kept.rater ?? "";
    for (const item of items) {
      const given = kept.answers?.[item.id];
      if (!given) continue;
      if (item.kind === "text") at(`text-${item.id}`).value = given.text ?? "";
      else if (item.kind === "choice") set(`choice-${item.id}`, given.choice);
      else {
        (given.ratings ?? []).forEach((level, number) => set(`rating-${item.id}-${number}`, level));
        (given.best ?? []).forEach((number) => set(`best-${item.id}`, number));
      }
    }
  };

  const toFirstGap = () => {
    form.classList.add("asked-for");
    if (data.rater && !rater()) {
      at("rater").focus();
      return;
    }
    const first = items.find((item) => !whole(item, answer(item)));
    at(`item-${first.id}`).scrollIntoView({ block: "start" });
    at(`item-${first.id}`).querySelector("input, textarea").focus({ preventScroll: true });
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (show() || (data.rater && !rater())) {
      toFirstGap();
      return;
    }
    const text = JSON.stringify({ form: data.form, rater: rater(), seconds: Math.round((Date.now() - start) / 1000), answers: all() }, null, 1);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = data.file;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  form.addEventListener("input", () => {
    keep();
    show();
  });
  at("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  again();
  show();
})();
