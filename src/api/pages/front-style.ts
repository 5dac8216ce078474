import { HUES } from './palette.ts';

/** The front page's stylesheet: a consignment note, ruled into cells, in the reader's light or dark. */
export const FRONT_STYLE = `
:root {
  color-scheme: light dark;
  --desk: light-dark(#e3e6e8, #0d0f11);
  ${HUES}
}
*, *::before, *::after { box-sizing: border-box; }
[hidden] { display: none !important; }
body {
  margin: 0;
  padding: clamp(0.75rem, 3vw, 2.5rem);
  background: var(--desk);
  color: var(--ink);
  font: 1rem/1.5 "Helvetica Neue", "Liberation Sans", Arial, system-ui, sans-serif;
}
.sheet {
  display: grid;
  grid-template-columns: minmax(0, 7fr) minmax(0, 5fr);
  max-width: 66rem;
  margin: 0 auto;
  background: var(--paper);
  border: 2px solid var(--rule);
}
.cell { padding: 1.1rem 1.4rem 1.4rem; border-bottom: 2px solid var(--rule); min-width: 0; }
.masthead, .try, .pools, .trail { grid-column: 1 / -1; }
.contents { border-right: 2px solid var(--rule); }
.trail { border-bottom: 0; }

.masthead { display: flex; align-items: flex-end; gap: 0.9rem; padding-block: 1.3rem; border-top: 0.7rem solid var(--mark); }
h1 { margin: 0; font-size: clamp(2.6rem, 8vw, 4.4rem); font-weight: 800; line-height: 0.9; letter-spacing: -0.045em; }
.version { margin: 0; color: var(--soft); font: 0.8rem/1 var(--mono); }
.masthead .barcode { margin-left: auto; width: min(15rem, 34vw); height: 2.9rem; }
.barcode svg { display: block; width: 100%; height: 100%; fill: currentColor; }

h2 { margin: 0 0 0.7rem; font-size: 0.86rem; font-weight: 700; line-height: 1.2; }
.row { display: flex; align-items: baseline; justify-content: space-between; gap: 1rem; }
.contents p { margin: 0 0 0.7rem; max-width: 36em; font-size: 1.06rem; }
.contents p:last-child { margin: 0; }

a { color: inherit; text-decoration-thickness: 1px; text-underline-offset: 0.2em; }
a:hover { text-decoration-thickness: 2px; }
:focus-visible { outline: 3px solid var(--mark); outline-offset: 2px; box-shadow: 0 0 0 2px var(--ink); }
.skip { position: absolute; left: -100vw; padding: 0.5rem 1rem; background: var(--ink); color: var(--paper); }
.skip:focus { left: 1rem; top: 1rem; }
.addresses ul { margin: 0; padding: 0; list-style: none; }
.addresses li { padding: 0.34rem 0; border-top: 1px solid var(--hair); }
.addresses li:first-child { border-top: 0; padding-top: 0; }
.addresses a { font-weight: 600; }
.addresses span { color: var(--soft); font-size: 0.9rem; }

pre { margin: 0; padding: 0.7rem 0.9rem; overflow-x: auto; background: var(--fill); font: 0.82rem/1.6 var(--mono); }

table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th { padding: 0 0.6rem 0.4rem 0; color: var(--soft); font-size: 0.82rem; font-weight: 400; text-align: left; }
td { padding: 0.42rem 0.6rem 0.42rem 0; border-top: 1px solid var(--hair); }
th.n, td.n { text-align: right; }
th:last-child, td:last-child { padding-right: 0; }
td:first-child { font-weight: 600; }
.zero { color: var(--soft); }
.state { margin: 0; color: var(--soft); font-size: 0.82rem; }
.mark { display: inline-flex; white-space: nowrap; align-items: center; gap: 0.45rem; }
.mark::before { content: ""; width: 0.6rem; height: 0.6rem; border: 2px solid currentColor; }
.ok::before, .succeeded::before { background: currentColor; }
.ok, .succeeded { color: var(--ok); }
.paused, .running, .accepted { color: var(--wait); }
.none, .failed, .bad { color: var(--bad); }
.failed::before { background: currentColor; }

.hint { margin: 0 0 0.8rem; color: var(--soft); }
.fields { display: flex; flex-wrap: wrap; gap: 0.8rem; align-items: end; }
label { flex: 1 1 14rem; color: var(--soft); font-size: 0.82rem; }
input { display: block; width: 100%; height: 2.6rem; margin-top: 0.2rem; padding: 0.5rem 0.6rem; border: 1px solid var(--rule); border-radius: 0; background: var(--paper); color: var(--ink); font: inherit; font-size: 1rem; }
button { height: 2.6rem; padding: 0 1.1rem; border: 1px solid var(--ink); border-radius: 0; background: var(--ink); color: var(--paper); font: inherit; font-weight: 600; cursor: pointer; }
button:hover { background: var(--mark); border-color: var(--mark); color: #14181b; }
button:disabled { opacity: 0.5; cursor: progress; }
button.quiet { height: auto; padding: 0; border: 0; background: none; color: inherit; font-size: 0.86rem; font-weight: 400; text-decoration: underline; text-underline-offset: 0.2em; }
button.quiet:hover { background: none; color: inherit; text-decoration-thickness: 2px; }
.message { margin: 0.6rem 0 0; }
.message:empty { display: none; }

.operations { margin: 0; padding: 0; list-style: none; }
.operations > li { border-top: 1px solid var(--hair); }
.operations > li:first-child { border-top: 0; }
summary { display: grid; grid-template-columns: 1.1rem minmax(9rem, 1fr) 8rem minmax(0, 19rem) 5.5rem; gap: 0.8rem; align-items: baseline; margin-inline: -0.5rem; padding: 0.5rem; cursor: pointer; list-style: none; }
summary:focus-visible { outline-offset: 0; }
summary::-webkit-details-marker { display: none; }
summary::before { content: "+"; font: 1rem/1 var(--mono); color: var(--soft); }
details[open] > summary::before { content: "\\2212"; }
summary:hover { background: var(--fill); }
.type { font-weight: 600; overflow-wrap: anywhere; }
.id { font: 0.78rem/1.4 var(--mono); color: var(--soft); overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.when { color: var(--soft); font-size: 0.86rem; text-align: right; white-space: nowrap; }
.note { margin: 0.5rem 0 1.2rem 1.9rem; border: 2px solid var(--rule); }
.note .barcode { height: 2.1rem; margin: 0.8rem 0.9rem 0; }
.note .number { margin: 0.25rem 0.9rem 0.7rem; font: 0.78rem/1.4 var(--mono); overflow-wrap: anywhere; }
.note .failure { margin: 0; padding: 0.5rem 0.9rem; border-top: 1px solid var(--hair); }
.hops { margin: 0; padding: 0; list-style: none; border-top: 2px solid var(--rule); }
.hops li { display: grid; grid-template-columns: 5.5rem 11.5rem minmax(0, 1fr) 4.5rem; gap: 0.9rem; padding: 0.4rem 0.9rem; border-top: 1px solid var(--hair); align-items: baseline; }
.hops li:first-child { border-top: 0; }
.hops .at, .hops .took { color: var(--soft); font-size: 0.84rem; font-variant-numeric: tabular-nums; white-space: nowrap; }
.hops .took { text-align: right; }
.hops .what { overflow-wrap: anywhere; font-size: 0.92rem; }
.hops .what code { display: block; font: 0.76rem/1.5 var(--mono); color: var(--soft); }
.failed-hop .kind { color: var(--bad); }

@media (max-width: 46rem) {
  .sheet { grid-template-columns: minmax(0, 1fr); }
  .contents { border-right: 0; }
  .cell { padding-inline: 1rem; }
  summary { grid-template-columns: 1.1rem minmax(0, 1fr) auto; }
  .id { display: none; }
  .when { grid-column: 2 / -1; text-align: left; }
  .note { margin-left: 0; }
  td, th { padding-right: 0.4rem; font-size: 0.9rem; }
  .pools th:nth-child(5), .pools td:nth-child(5) { display: none; }
  .pools th:nth-child(4), .pools td:nth-child(4) { padding-right: 0; }
  .hops li { grid-template-columns: 4.5rem minmax(0, 1fr) auto; row-gap: 0; }
  .hops .kind { font-size: 0.94rem; overflow-wrap: anywhere; }
  summary { row-gap: 0; }
  .hops .what { grid-column: 2 / -1; }
  .hops .took { grid-row: 1; grid-column: 3; }
}
@media (prefers-reduced-motion: no-preference) { button { transition: background-color 0.12s; } }
`;
