// Theme and definitions. Everything else on the page works without scripts.
(() => {
  "use strict";
  const root = document.documentElement;
  root.classList.add("scripted");

  const theme = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.style.colorScheme || (system.matches ? "dark" : "light")) === "dark";
  const name = () => { theme.textContent = dark() ? "Light theme" : "Dark theme"; };
  theme.hidden = false;
  theme.addEventListener("click", () => { root.style.colorScheme = dark() ? "light" : "dark"; name(); });
  system.addEventListener("change", name);
  name();

  const tip = document.getElementById("tip");
  let shownFor = null;
  let leaving = 0;
  const hide = () => { tip.hidden = true; shownFor = null; };
  const hideSoon = () => { clearTimeout(leaving); leaving = setTimeout(hide, 150); };
  const show = (term) => {
    clearTimeout(leaving);
    shownFor = term;
    tip.textContent = document.getElementById(term.getAttribute("aria-describedby")).textContent;
    tip.hidden = false;
    const at = term.getBoundingClientRect();
    const wide = root.clientWidth - tip.offsetWidth - 8;
    const above = at.top > tip.offsetHeight + 14;
    tip.style.left = `${scrollX + Math.max(8, Math.min(at.left, wide))}px`;
    tip.style.top = `${scrollY + (above ? at.top - tip.offsetHeight - 6 : at.bottom + 6)}px`;
  };
  const termOf = (event) => event.target.closest?.(".term");
  document.addEventListener("pointerover", (event) => {
    const term = termOf(event);
    if (term) show(term);
    else if (event.target === tip) clearTimeout(leaving);
    else if (!tip.hidden && document.activeElement !== shownFor) hideSoon();
  });
  document.addEventListener("focusin", (event) => {
    const term = termOf(event);
    if (term) show(term);
    else hide();
  });
  document.addEventListener("click", (event) => {
    const term = termOf(event);
    // A finger has no pointer to hover with: the first tap explains, the definition stays a link.
    if (term?.tagName === "A") { event.preventDefault(); show(term); }
    else if (!term) hide();
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
})();
