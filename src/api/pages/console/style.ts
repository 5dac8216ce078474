import { HUES } from '../palette.ts';

/** The console's stylesheet, in the reader's light or dark; the hues are those of the front page. */
export const CONSOLE_STYLE = `
:root {
  color-scheme: light dark;
  --desk: light-dark(#eceff1, #0d0f11);
  ${HUES}
}
*, *::before, *::after { box-sizing: border-box; }
[hidden] { display: none !important; }
body {
  display: grid;
  grid-template: auto minmax(0, 1fr) / 11.5rem minmax(0, 1fr);
  min-height: 100vh;
  margin: 0;
  background: var(--desk);
  color: var(--ink);
  font: 0.95rem/1.5 "Helvetica Neue", "Liberation Sans", Arial, system-ui, sans-serif;
  font-variant-numeric: tabular-nums;
}
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.skip { position: absolute; left: -100vw; z-index: 3; padding: 0.5rem 1rem; background: var(--ink); color: var(--paper); }
.skip:focus { left: 1rem; top: 0.5rem; }
:focus-visible { outline: 3px solid var(--mark); outline-offset: 2px; box-shadow: 0 0 0 2px var(--ink); }
h1:focus, main:focus { outline: 0; box-shadow: none; }
p, dl, ol, ul, dd { margin: 0; padding: 0; }
ol, ul { list-style: none; }
a { color: inherit; text-decoration-thickness: 1px; text-underline-offset: 0.2em; }
a:hover { text-decoration-thickness: 2px; }
.small { color: var(--soft); font-size: 0.84rem; }
.soft { color: var(--soft); }
.bad { color: var(--bad); }
.id { font: 0.82em/1.5 var(--mono); overflow-wrap: anywhere; }
.wrap { overflow-wrap: anywhere; }

.top { grid-column: 1 / -1; display: flex; align-items: center; gap: 1.2rem; padding: 0.55rem 1.4rem; background: var(--paper); border-top: 0.4rem solid var(--mark); border-bottom: 2px solid var(--rule); }
.brand a { font-size: 1.25rem; font-weight: 800; letter-spacing: -0.03em; text-decoration: none; }
.answers { margin-left: auto; font-size: 0.84rem; }
.answers.good { color: var(--soft); }
.answers.bad { padding: 0.1rem 0.6rem; background: var(--bad); color: var(--paper); font-weight: 600; }
.account { display: flex; align-items: center; gap: 1rem; min-width: 0; }
.who { display: flex; gap: 0.5rem; min-width: 0; font-size: 0.88rem; }
.address { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.views { padding: 1rem 0; background: var(--paper); border-right: 2px solid var(--rule); }
.views ul { position: sticky; top: 1rem; }
.views a { display: block; padding: 0.42rem 1.2rem 0.42rem 1.1rem; border-left: 0.3rem solid transparent; text-decoration: none; white-space: nowrap; }
.views a:hover { background: var(--fill); }
.views a[aria-current] { border-left-color: var(--mark); background: var(--fill); font-weight: 700; }
main { min-width: 0; padding: 1.4rem clamp(0.9rem, 2.4vw, 2rem) 5rem; }
.view { max-width: 78rem; }
.signed-out .views, .signed-out .account { display: none; }
.signed-out main { grid-column: 1 / -1; }

h1 { margin: 0; font-size: 1.7rem; font-weight: 800; line-height: 1.15; letter-spacing: -0.02em; overflow-wrap: anywhere; }
h2 { margin: 1.6rem 0 0.6rem; font-size: 1.02rem; }
h3 { margin: 0; font-size: 0.95rem; }
.heading { display: flex; flex-wrap: wrap; align-items: center; justify-content: space-between; gap: 0.6rem 1.2rem; margin-bottom: 1rem; }
.back { margin-bottom: 0.6rem; font-size: 0.9rem; }
.empty { padding: 1.1rem; border: 1px dashed var(--hair); color: var(--soft); }
.links { display: flex; flex-wrap: wrap; gap: 0.4rem 1.4rem; margin-top: 1rem; }

button { min-height: 2.2rem; padding: 0.25rem 0.9rem; border: 1px solid var(--ink); border-radius: 0; background: var(--ink); color: var(--paper); font: inherit; font-size: 0.9rem; font-weight: 600; cursor: pointer; }
button:hover { background: var(--mark); border-color: var(--mark); color: #14181b; }
button.quiet { background: none; border-color: var(--hair); color: inherit; font-weight: 400; }
button.quiet:hover { border-color: var(--ink); background: var(--fill); }
button.danger { background: none; border-color: var(--bad); color: var(--bad); }
button.danger:hover { background: var(--bad); color: var(--paper); }
button:disabled { opacity: 0.45; cursor: default; }
.actions { display: flex; flex-wrap: wrap; align-items: center; gap: 0.5rem; }

.field { flex: 1 1 11rem; min-width: 0; max-width: 24rem; }
label { display: block; color: var(--soft); font-size: 0.84rem; }
input, select, textarea { width: 100%; min-height: 2.2rem; padding: 0.3rem 0.5rem; border: 1px solid var(--soft); border-radius: 0; background: var(--paper); color: var(--ink); font: inherit; }
.filters, .finder { display: flex; flex-wrap: wrap; gap: 0.7rem; align-items: end; margin-bottom: 1.1rem; padding: 0.8rem 0.9rem 0.9rem; background: var(--paper); border: 1px solid var(--hair); }
.finder { border: 2px solid var(--rule); }
.finder .field:first-child { flex: 3 1 20rem; max-width: none; }
.finder input { font-family: var(--mono); font-size: 0.88rem; }
.sign-in { display: grid; gap: 0.9rem; max-width: 24rem; margin: min(9vh, 5rem) auto 0; padding: 1.6rem; background: var(--paper); border: 2px solid var(--rule); border-top: 0.7rem solid var(--mark); }

.tabs { display: flex; gap: 1.4rem; margin-bottom: 1rem; border-bottom: 1px solid var(--hair); }
.tabs a { padding: 0.3rem 0; text-decoration: none; }
.tabs a[aria-current] { border-bottom: 3px solid var(--ink); font-weight: 700; }

.scroll { overflow-x: auto; background: var(--paper); border: 1px solid var(--hair); }
table { width: 100%; border-collapse: collapse; }
th { padding: 0.5rem 0.8rem; border-bottom: 2px solid var(--rule); color: var(--soft); font-size: 0.82rem; font-weight: 400; text-align: left; white-space: nowrap; }
td { padding: 0.5rem 0.8rem; border-top: 1px solid var(--hair); vertical-align: top; }
tbody tr:first-child td { border-top: 0; }
.n { text-align: right; }
td.n { white-space: nowrap; }
.end { text-align: right; white-space: nowrap; }
.end .actions { justify-content: flex-end; flex-wrap: nowrap; }
td button { min-height: 1.9rem; padding: 0.1rem 0.6rem; font-size: 0.84rem; }
time { white-space: nowrap; }
.more td { background: var(--fill); }
.list[aria-busy="true"] { opacity: 0.55; pointer-events: none; }
.pager { display: flex; align-items: center; justify-content: space-between; gap: 1rem; margin-top: 0.8rem; }

.badge { display: inline-flex; align-items: center; gap: 0.4rem; white-space: nowrap; }
.badge::before { content: ""; width: 0.6rem; height: 0.6rem; border: 2px solid currentColor; }
.badge.good { color: var(--ok); }
.badge.good::before, .badge.bad::before { background: currentColor; }
.badge.bad { color: var(--bad); }
.badge.wait { color: var(--wait); }

.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(27rem, 100%), 1fr)); gap: 0 2rem; }
section > .facts { padding: 0.3rem 0.9rem; background: var(--paper); border: 1px solid var(--hair); }
section > .facts > div { margin-top: -1px; }
section > details { margin-top: 1rem; }
.facts > div { display: grid; grid-template-columns: 8.2rem minmax(0, 1fr); gap: 0.8rem; padding: 0.32rem 0; border-top: 1px solid var(--hair); }
dt { color: var(--soft); }
dd { overflow-wrap: anywhere; }
.code { max-height: 26rem; margin: 0.4rem 0 0; padding: 0.7rem 0.9rem; overflow: auto; background: var(--fill); border: 1px solid var(--hair); font: 0.82rem/1.55 var(--mono); white-space: pre-wrap; overflow-wrap: anywhere; }
details { margin-top: 1rem; }
summary { cursor: pointer; }

.problem { padding: 0.7rem 0.9rem; border-left: 0.3rem solid var(--bad); background: var(--paper); }
.problem button { margin-top: 0.5rem; }
p.problem { margin-bottom: 0.9rem; overflow-wrap: anywhere; }
.verdict { margin-bottom: 1rem; padding: 0.8rem 1rem; border-left: 0.3rem solid var(--wait); background: var(--paper); }
.verdict.good { border-color: var(--ok); }
.verdict.bad { border-color: var(--bad); color: inherit; }
.steps li { margin-top: 0.4rem; }
.notes { position: fixed; z-index: 2; right: 1rem; bottom: 1rem; display: grid; gap: 0.5rem; width: min(26rem, calc(100vw - 2rem)); }
.note { display: flex; justify-content: space-between; gap: 1rem; padding: 0.6rem 0.7rem 0.6rem 0.9rem; background: var(--paper); border: 2px solid var(--rule); border-left: 0.4rem solid var(--ok); }
.note.bad { border-left-color: var(--bad); color: inherit; }
.note .problem { padding: 0; border: 0; }
.note button { min-height: 1.6rem; padding: 0 0.5rem; border: 0; }
dialog { width: min(30rem, calc(100vw - 2rem)); max-height: calc(100vh - 2rem); padding: 1.3rem; border: 2px solid var(--rule); border-top: 0.6rem solid var(--mark); background: var(--paper); color: var(--ink); }
dialog::backdrop { background: rgb(0 0 0 / 0.5); }
dialog h2 { margin: 0; overflow-wrap: anywhere; }
dialog form { display: grid; gap: 0.9rem; }
dialog .field { max-width: none; }
dialog .facts { margin-top: 0.5rem; }

.freshness { color: var(--soft); font-size: 0.86rem; }
.freshness.stale { flex-basis: 100%; color: inherit; }
.freshness.stale strong { color: var(--bad); }
.stale:not(.freshness) { opacity: 0.5; filter: grayscale(1); }
.health { display: flex; flex-wrap: wrap; gap: 0.4rem 1.6rem; padding: 0.7rem 0.9rem; background: var(--paper); border: 1px solid var(--hair); }
.checks { display: flex; flex-wrap: wrap; gap: 0.2rem 1.1rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: 0.8rem; margin: 0.9rem 0; }
.tile { display: grid; padding: 0.7rem 0.9rem; background: var(--paper); border: 1px solid var(--hair); border-top: 3px solid var(--rule); }
.tile.bad { border-top-color: var(--bad); }
.figure { font-size: 1.65rem; font-weight: 700; line-height: 1.2; letter-spacing: -0.02em; }
td > div:has(.curve) { display: flex; align-items: center; justify-content: flex-end; gap: 0.6rem; }
.curve { width: 60px; height: 16px; overflow: visible; }
.curve polyline { fill: none; stroke: var(--soft); stroke-width: 1.5; stroke-linejoin: round; }
.bars { display: flex; gap: 0.5rem; max-width: 36rem; margin-top: 0.8rem; }
.bars li { flex: 1; text-align: center; }
.bar { display: flex; align-items: end; height: 5rem; border-bottom: 1px solid var(--rule); }
.bar::before { content: ""; width: 100%; height: calc(var(--all) * 100%); background: linear-gradient(to top, var(--bad) calc(var(--bad-part, 0) * 100%), var(--ok) 0); }

.attempts > li { margin-top: 0.8rem; padding: 0.8rem 1rem; background: var(--paper); border: 1px solid var(--hair); border-left: 0.3rem solid var(--soft); }
.attempts > li.good { border-left-color: var(--ok); }
.attempts > li.bad { border-left-color: var(--bad); color: inherit; }
.row { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0.3rem 1rem; margin-bottom: 0.4rem; }
.attempts .actions { margin-top: 0.8rem; }

.waybill { background: var(--paper); border: 2px solid var(--rule); border-top: 0.7rem solid var(--mark); }
.waybill > :not(.trail, .masthead) { margin-inline: 1.2rem; }
.waybill > .facts { grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr)); padding-block: 0.2rem 0.7rem; }
.waybill > .facts > div { grid-template-columns: auto minmax(0, 1fr); }
.waybill > .facts > div { border-top: 0; }
.waybill > details { margin-block: 0.9rem 1rem; }
.waybill > .empty, .waybill > .problem { margin-block: 1rem; }
.masthead { display: flex; align-items: flex-start; justify-content: space-between; gap: 1rem; padding: 0.9rem 1.2rem 0.7rem; }
.masthead h2 { margin: 0; font-size: 1.6rem; font-weight: 800; line-height: 1.15; letter-spacing: -0.025em; overflow-wrap: anywhere; }
.stamp { padding: 0.25rem 0.7rem; border: 2px solid currentColor; font-weight: 700; }
.stamp:has(.good) { color: var(--ok); }
.stamp:has(.bad) { color: var(--bad); }
.stamp:has(.wait) { color: var(--wait); }
.sums { display: flex; flex-wrap: wrap; gap: 0.2rem 1.5rem; padding: 0.55rem 1.2rem; border-block: 2px solid var(--rule); font-size: 0.9rem; }
.sums li { display: inline-flex; align-items: center; gap: 0.35rem; }
.sign { width: 1.05rem; height: 1.05rem; flex: none; fill: none; stroke: currentColor; stroke-width: 1.9; stroke-linecap: round; stroke-linejoin: round; }
.ruler, .hop { display: grid; grid-template-columns: 6.6rem 2rem minmax(0, 1fr) minmax(9rem, 34%); column-gap: 0.9rem; padding-inline: 1.2rem; }
.ruler { position: relative; height: 1.9rem; }
.ruler::before { content: ""; grid-column: 4; border-bottom: 1px solid var(--hair); }
.ruler span { grid-area: 1 / 4; align-self: end; justify-self: start; position: relative; left: calc(var(--at) * 100%); padding-left: 0.25rem; border-left: 1px solid var(--hair); color: var(--soft); font-size: 0.76rem; line-height: 1.3; white-space: nowrap; }
.ruler::before, .ruler span { min-width: 0; }
.hop { position: relative; align-items: start; padding-block: 0.55rem; }
.hop.bad { color: inherit; }
.hop.bad h3 { color: var(--bad); }
.hop:hover { background: var(--fill); }
.at { display: grid; justify-items: end; padding-top: 0.15rem; text-align: right; font-size: 0.9rem; }
.gap { color: var(--soft); font-size: 0.76rem; white-space: nowrap; }
.node { position: relative; z-index: 1; display: grid; place-items: center; width: 2rem; height: 2rem; border: 2px solid currentColor; border-radius: 50%; background: var(--paper); color: var(--soft); }
.hop.good .node { color: var(--ok); }
.hop.bad .node { color: var(--paper); background: var(--bad); border-color: var(--bad); }
.hop.wait .node { color: var(--wait); border-style: dashed; }
.hop::before { content: ""; position: absolute; left: calc(1.2rem + 6.6rem + 0.9rem + 1rem - 1px); top: 0; bottom: 0; border-left: 2px solid var(--hair); }
.hop:first-child::before { top: 1.5rem; }
.hop:last-child::before { bottom: auto; height: 1.5rem; }
.hop:only-child::before { display: none; }
.what h3 { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0 0.8rem; padding-top: 0.1rem; }
.what .badge { font-size: 0.86rem; font-weight: 400; }
.about, .what .small { overflow-wrap: anywhere; }
.about strong { font-weight: 600; }
.time { display: grid; align-content: start; gap: 0.15rem; padding-top: 0.6rem; }
.strip { position: relative; display: block; height: 0.7rem; background: linear-gradient(var(--hair) 0 0) center / 100% 1px no-repeat; }
.strip i { position: absolute; left: min(calc(var(--from) * 100%), calc(100% - 4px)); width: max(4px, calc(var(--size) * 100%)); height: 100%; background: var(--soft); }
.hop.good .strip i { background: var(--ok); }
.hop.bad .strip i { background: var(--bad); }
.hop.wait .strip i { background: var(--wait); }
.took { margin-left: calc(min(var(--from), 0.7) * 100%); color: var(--soft); font-size: 0.8rem; }
.hops { padding-bottom: 0.5rem; }

@media (max-width: 52rem) {
  body { grid-template: auto auto minmax(0, 1fr) / minmax(0, 1fr); }
  .top { flex-wrap: wrap; gap: 0.3rem 1rem; padding-inline: 0.9rem; }
  .account { width: 100%; justify-content: space-between; }
  .views { padding: 0; border-right: 0; border-bottom: 2px solid var(--rule); overflow-x: auto; }
  .views ul { position: static; display: flex; }
  .views a { padding: 0.5rem 0.8rem; border-left: 0; border-bottom: 0.3rem solid transparent; }
  .views a[aria-current] { border-bottom-color: var(--mark); }
  .field { flex-basis: 100%; max-width: none; }
  .scroll { border: 0; background: none; overflow: visible; }
  table, tbody, tr, td { display: block; }
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  tbody tr { margin-bottom: 0.7rem; padding: 0.3rem 0; background: var(--paper); border: 1px solid var(--hair); }
  td, td.n { display: grid; grid-template-columns: 6.5rem minmax(0, 1fr); gap: 0 0.8rem; padding: 0.22rem 0.8rem; border: 0; text-align: left; white-space: normal; }
  td::before { content: attr(data-label); grid-row: 1 / span 9; color: var(--soft); font-size: 0.84rem; }
  td > * { grid-column: 2; justify-self: start; }
  td[colspan], td.end { display: block; }
  td[colspan]::before, td.end::before { content: none; }
  .end .actions { justify-content: flex-start; }
  .facts > div { grid-template-columns: 6.5rem minmax(0, 1fr); }
  .ruler { display: none; }
  .hop { grid-template-columns: 2rem minmax(0, 1fr); padding-inline: 0.8rem; column-gap: 0.7rem; }
  .hop::before { left: calc(0.8rem + 1rem - 1px); }
  .node { grid-row: 1 / span 3; }
  .at { grid-area: 1 / 2; display: flex; gap: 0.6rem; text-align: left; }
  .what, .time { grid-column: 2; }
  .time { grid-template-columns: minmax(0, 1fr) 6rem; gap: 0.7rem; padding-top: 0.25rem; }
  .took { margin: 0; }
  .curve { display: none; }
  .masthead, .sums { padding-inline: 0.8rem; }
  .waybill > :not(.trail, .masthead) { margin-inline: 0.8rem; }
}
@media (prefers-reduced-motion: no-preference) {
  button, .live, .waybill { transition: background-color 0.12s, opacity 0.2s; }
}
@media (forced-colors: active) {
  .strip i, .bar::before, .badge::before { forced-color-adjust: none; }
}
`;
