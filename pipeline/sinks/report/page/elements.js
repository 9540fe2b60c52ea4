// Makes elements. Names come from files and models, so text is always inserted as text.

export const $ = (selector) => document.querySelector(selector);

/** Return an element; `properties` are set on it, `children` are elements or text. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  const { data = {}, aria = {}, ...others } = properties;
  Object.assign(element, others);
  for (const [name, value] of Object.entries(data)) element.dataset[name] = value;
  for (const [name, value] of Object.entries(aria)) {
    element.setAttribute(name === "role" ? name : `aria-${name}`, value);
  }
  element.append(...children.filter((one) => one !== null && one !== undefined).map((one) => (one instanceof Node ? one : String(one))));
  return element;
}

/** Return a table; columns whose name starts with "#" are numbers. */
export function table(label, columns, rows) {
  const isNumber = columns.map((name) => name.startsWith("#"));
  const cell = (tag, text, i) => {
    const made = make(tag, { className: isNumber[i] ? "number" : "" }, text);
    if (tag === "th") made.scope = "col";
    return made;
  };
  const head = make("tr", {}, ...columns.map((name, i) => cell("th", name.replace("#", ""), i)));
  const body = rows.map((row) => make("tr", {}, ...row.map((text, i) => cell("td", text, i))));
  const made = make("table", {}, make("thead", {}, head), make("tbody", {}, ...body));
  return make("div", { className: "scroll", tabIndex: 0, aria: { role: "region", label } }, made);
}

/** Return a list of names and values, without those that have none. */
export function facts(pairs) {
  const known = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  const parts = known.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value)));
  return make("dl", {}, ...parts);
}

export const grouped = (number) => number.toLocaleString("en-US");
export const plural = (n, one, many = `${one}s`) => `${grouped(n)} ${n === 1 ? one : many}`;
