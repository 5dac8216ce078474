/**
 * Elements from data. Text goes in as text: nothing here, nor in any other module of the console, parses markup, and the
 * page's policy (`require-trusted-types-for 'script'`) makes the browser refuse it besides.
 */
const SVG = 'http://www.w3.org/2000/svg';
const REFUSED = /^(on|style$|srcdoc$|src$|action$|formaction$)/i;

/** An address that may stand in a link: a place of this page or of this server; nothing that runs or leads elsewhere. */
export function safeHref(href) {
  const text = String(href);
  const here = 'http://page.invalid';
  const url = URL.parse(text, here);
  // A blob has the origin of whoever made it.
  return url?.protocol === 'http:' && url.origin === here ? text : undefined;
}

/**
 * `h('a.plain', {href, onclick: fn}, 'text', node, [more])`. Functions become listeners, booleans set or leave out an
 * attribute, all else is an attribute as text; `undefined`, `null` and `false` children are left out.
 */
export function h(name, attributes, ...children) {
  const [tag, ...classes] = name.split('.');
  return fill(document.createElement(tag), classes, attributes, children);
}

/** The same for SVG. */
export function s(name, attributes, ...children) {
  const [tag, ...classes] = name.split('.');
  return fill(document.createElementNS(SVG, tag), classes, attributes, children);
}

function fill(node, classes, attributes, children) {
  if (classes.length > 0) node.setAttribute('class', classes.join(' '));
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === 'function') node.addEventListener(key.replace(/^on/, ''), value);
    else if (key === 'class') node.classList.add(...String(value).split(' ').filter(Boolean));
    else if (REFUSED.test(key)) throw new TypeError(`${key} is not set from data`);
    else if (key === 'href') {
      const href = safeHref(value);
      if (href !== undefined) node.setAttribute('href', href);
    } else node.setAttribute(key, value === true ? '' : String(value));
  }
  node.append(...nodes(children));
  return node;
}

/** Children as nodes and text. */
export const nodes = (children) =>
  [children]
    .flat(Number.POSITIVE_INFINITY)
    .filter((child) => child !== undefined && child !== null && child !== false)
    .map((child) => (child instanceof Node ? child : String(child)));

/** Puts `children` in the place of what a node held. */
export const show = (node, ...children) => node.replaceChildren(...nodes(children));

/** Custom properties, which the style sheet makes use of. */
export function measure(node, properties) {
  for (const [key, value] of Object.entries(properties)) node.style.setProperty(`--${key}`, String(value));
  return node;
}
