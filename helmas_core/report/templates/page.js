"use strict";
(() => {
  const root = document.documentElement;
  const theme = document.getElementById("theme");
  const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const label = () => { theme.textContent = dark() ? "Light" : "Dark"; };
  theme.hidden = false;
  theme.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; label(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
  label();

  // Arm names come from the report, so they are compared as data and never become selectors or markup.
  const answer = (item, arm) => [...item.querySelectorAll("[data-arm]")].find((cell) => cell.dataset.arm === arm);
  const said = (cell) => cell.querySelector("pre").textContent.trim();
  const differs = (item, how, one, other) => {
    const a = answer(item, one), b = answer(item, other);
    if (!a || !b) return false;
    if (how === "text") return said(a) !== said(b);
    if (how === "right") return a.dataset.right !== b.dataset.right;
    return a.dataset.right === "true" && b.dataset.right === "false";
  };
  for (const form of document.querySelectorAll("form.filter")) {
    const items = [...document.getElementById(form.dataset.items).querySelectorAll("article")];
    const field = (name) => (form.elements[name] ? form.elements[name].value : "");
    const apply = () => {
      const word = field("word").toLowerCase();
      let count = 0;
      for (const item of items) {
        const fits =
          (!field("how") || differs(item, field("how"), field("one"), field("other"))) &&
          (!field("category") || item.dataset.category === field("category")) &&
          (!word || item.textContent.toLowerCase().includes(word));
        item.hidden = !fits;
        count += fits;
      }
      form.querySelector("output").textContent = `${count} of ${items.length} shown`;
    };
    form.hidden = false;
    form.addEventListener("input", apply);
    form.addEventListener("submit", (event) => event.preventDefault());
    apply();
  }
})();
