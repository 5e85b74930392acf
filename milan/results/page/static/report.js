// Searches the units on the page of an experiment.
"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const plain = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
  const cases = [...document.querySelectorAll(".case")].map((element) => ({ element, words: plain(element.textContent), group: element.dataset.group }));
  milanPictures.fill(JSON.parse(at("data").textContent));
  if (!cases.length) return;

  const show = () => {
    const words = plain(at("search").value).split(/\s+/).filter(Boolean);
    const group = at("group").value;
    let count = 0;
    for (const one of cases) {
      const fits = (!group || one.group === group) && words.every((word) => one.words.includes(word));
      one.element.hidden = !fits;
      count += fits;
    }
    at("count").textContent = count === cases.length ? `${count} units` : `${count} of ${cases.length} units`;
    at("nothing").hidden = count > 0;
  };
  at("tools").addEventListener("submit", (event) => event.preventDefault());
  at("search").addEventListener("input", show);
  at("group").addEventListener("change", show);
  at("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  show();
})();
