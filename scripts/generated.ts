/** `page` with `text` between its two markers, which name the command that writes it; what stands around them is kept. */
export function between(page: string, [begin, end]: readonly [begin: string, end: string], text: string): string {
  const [from, to] = [page.indexOf(begin), page.indexOf(end)];
  if (from < 0 || to < from) throw new Error(`the page has no "${begin}" … "${end}"`);
  return `${page.slice(0, from + begin.length)}\n\n${text}\n\n${page.slice(to)}`;
}
