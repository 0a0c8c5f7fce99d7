// A formula that is wider than the screen scrolls by itself: the keyboard must reach it, as the theme sees to for code.
function reach() {
  document.querySelectorAll("mjx-container").forEach((formula) => {
    if (formula.scrollWidth > formula.clientWidth) formula.tabIndex = 0;
    else formula.removeAttribute("tabindex");
  });
}
window.addEventListener("load", () => window.MathJax?.startup?.promise.then(reach));
window.addEventListener("resize", reach);
