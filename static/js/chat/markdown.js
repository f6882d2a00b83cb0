// A model's Markdown as safe HTML. HTML in it is text, links open elsewhere, formulas become MathML, and what comes out
// of it all is sanitised once more. Nothing inline is needed, so the page's policy forbids it.

const renderer = window.markdownit({ html: false, linkify: true, breaks: false, typographer: false });
renderer.disable("image"); // an address that a document names is not called just because it was read

// Private-use characters stand for what is put in after the text was rendered: nothing a text can hold is lost by it.
const OPEN = "\uE000";
const CLOSE = "\uE001";
const WEAK = "\uE002";
const MARKS = new RegExp(`${OPEN}(\\d+)${CLOSE}|${WEAK}(\\d+)${CLOSE}`, "gu");

function formula(text, isBlock) {
  try {
    return window.katex.renderToString(text, { output: "mathml", displayMode: isBlock, throwOnError: false, maxExpand: 200, maxSize: 20, trust: false });
  } catch {
    return renderer.utils.escapeHtml(text);
  }
}

// $…$ and $$…$$ as pandoc reads them: no space inside the dollars, no digit after the closing one.
renderer.inline.ruler.after("escape", "formula", (state, silent) => {
  const { src, pos } = state;
  if (src[pos] !== "$") return false;
  const isBlock = src[pos + 1] === "$";
  const fence = isBlock ? "$$" : "$";
  const start = pos + fence.length;
  const end = src.indexOf(fence, start);
  if (end <= start) return false;
  const inside = src.slice(start, end);
  if (!isBlock && (/^\s|\s$|\n/u.test(inside) || /\d/u.test(src[end + 1] ?? ""))) return false;
  if (!silent) {
    const token = state.push("formula", "math", 0);
    token.content = inside.trim();
    token.block = isBlock;
  }
  state.pos = end + fence.length;
  return true;
});
renderer.renderer.rules.formula = (tokens, index) => formula(tokens[index].content, tokens[index].block);

const link = renderer.renderer.rules.link_open ?? ((tokens, index, options, _, self) => self.renderToken(tokens, index, options));
renderer.renderer.rules.link_open = (tokens, index, ...rest) => {
  tokens[index].attrSet("target", "_blank");
  tokens[index].attrSet("rel", "noopener noreferrer nofollow");
  return link(tokens, index, ...rest);
};

const ALLOWED = {
  USE_PROFILES: { html: true, mathMl: true },
  ADD_ATTR: ["target"],
  FORBID_TAGS: ["style", "img", "form", "input", "button", "audio", "video", "iframe", "object"],
  FORBID_ATTR: ["style", "id", "class"],
};

// `citations` and `weakAt` are positions in the text; returns a fragment with marks for them.
export function render(text, citations, weakAt) {
  const edits = [
    ...citations.map((one, index) => ({ at: one.at, length: `[${one.number}]`.length, put: `${OPEN}${index}${CLOSE}` })),
    ...weakAt.map((at, index) => ({ at, length: 0, put: `${WEAK}${index}${CLOSE}` })),
  ].sort((a, b) => b.at - a.at || a.length - b.length);
  // Positions are those of characters as Python counts them.
  const characters = [...text.replace(/[\uE000-\uE002]/gu, "\uFFFD")];
  for (const edit of edits) characters.splice(edit.at, edit.length, edit.put);
  const clean = window.DOMPurify.sanitize(renderer.render(characters.join("")), { ...ALLOWED, RETURN_DOM_FRAGMENT: true });
  for (const table of clean.querySelectorAll("table")) {
    const scroller = Object.assign(document.createElement("div"), { className: "scroller", tabIndex: 0 });
    table.replaceWith(scroller);
    scroller.append(table);
  }
  return clean;
}

// Calls `put(kind, index)` for each mark in a rendered fragment and puts what it returns in its place.
export function replaceMarks(fragment, put) {
  const walker = document.createTreeWalker(fragment, NodeFilter.SHOW_TEXT);
  const nodes = [];
  while (walker.nextNode()) if (/[\uE000\uE002]/u.test(walker.currentNode.data)) nodes.push(walker.currentNode);
  for (const node of nodes) {
    const pieces = [];
    let last = 0;
    for (const match of node.data.matchAll(MARKS)) {
      pieces.push(node.data.slice(last, match.index));
      pieces.push(match[1] === undefined ? put("weak", Number(match[2])) : put("citation", Number(match[1])));
      last = match.index + match[0].length;
    }
    pieces.push(node.data.slice(last));
    node.replaceWith(...pieces);
  }
}
