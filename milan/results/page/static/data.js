// Loads the values of the page by name: from an element of a page that is one file, else from a script file beside the page. See data_files.py.
"use strict";
const milanLoad = (() => {
  const MOST = 256; // values that are kept
  const loaded = new Map();
  const waiting = new Map();
  window.milanData = (name, value) => waiting.get(name)?.(value);

  const load = (name) => new Promise((resolve) => {
    const inlined = document.getElementById(`data-${name}`);
    if (inlined) {
      resolve(JSON.parse(inlined.textContent));
      return;
    }
    waiting.set(name, resolve);
    const script = document.createElement("script");
    const end = () => {
      waiting.delete(name);
      script.remove();
      resolve(null); // of a file that has not called milanData
    };
    script.addEventListener("load", end);
    script.addEventListener("error", end);
    script.src = `data/${name}.js`;
    document.head.append(script);
  });

  // Resolves to the value, or null where its file is missing.
  return (name) => {
    const found = loaded.get(name) ?? load(name);
    loaded.delete(name);
    loaded.set(name, found);
    if (loaded.size > MOST) loaded.delete(loaded.keys().next().value);
    return found;
  };
})();
