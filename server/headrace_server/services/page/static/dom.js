// Creates elements whose text is never parsed as markup, since anybody who can store a model can choose its name.

const SVG = "http://www.w3.org/2000/svg";

/** Creates an element from attributes (`on...` are listeners; `null` and `false` are left out) and children or texts. */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

export function byId(id) {
  return document.getElementById(id);
}

/** Replaces the children of an element. */
export function show(element, ...children) {
  element.replaceChildren(...children.flat().filter(child => child !== null && child !== undefined));
}

/** Creates a table with a heading row; cells are texts or elements, and `numeric` columns are aligned to the right. */
export function table(caption, heads, rows, numeric = []) {
  const side = index => (numeric.includes(index) ? "number" : null);
  return el("div", { class: "scrolls", tabindex: 0, role: "region", "aria-label": caption },
    el("table", {},
      el("caption", { class: "unseen" }, caption),
      el("thead", {}, el("tr", {}, ...heads.map((head, index) => el("th", { scope: "col", class: side(index) }, head)))),
      el("tbody", {}, ...rows.map(cells =>
        el("tr", {}, ...cells.map((cell, index) =>
          el(index ? "td" : "th", { scope: index ? null : "row", class: side(index), "data-head": heads[index] }, cell)))))));
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter(child => child !== null && child !== undefined));
  return element;
}
