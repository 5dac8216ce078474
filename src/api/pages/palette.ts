/** The hues and the monospaced face of the pages, each for light and dark; a page says itself what lies beneath it. */
export const HUES = `--paper: light-dark(#fdfdfc, #16191c);
  --ink: light-dark(#14181b, #e9ecee);
  --soft: light-dark(#555f66, #9aa5ad);
  --rule: light-dark(#14181b, #59636a);
  --hair: light-dark(#d3d8db, #2b3136);
  --fill: light-dark(#eef1f2, #1e2327);
  --mark: #ffd21f;
  --ok: light-dark(#0c7a43, #4fcf8b);
  --bad: light-dark(#b3261e, #ff8a80);
  --wait: light-dark(#8a5a00, #f0b849);
  --mono: ui-monospace, "SF Mono", "Cascadia Mono", "DejaVu Sans Mono", Menlo, Consolas, monospace;`;
