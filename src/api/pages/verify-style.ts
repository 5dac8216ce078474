import { HUES } from './palette.ts';

/** The style sheet of the pages that mailed links open: one slip of the front page's form, light or dark. */
export const VERIFY_STYLE = `
:root {
  color-scheme: light dark;
  --desk: light-dark(#e3e6e8, #0d0f11);
  ${HUES}
}
*, *::before, *::after { box-sizing: border-box; }
[hidden] { display: none !important; }
body {
  margin: 0;
  min-height: 100dvh;
  display: grid;
  align-items: start;
  justify-items: center;
  padding: clamp(0.75rem, 8vh, 6rem) 0.75rem;
  background: var(--desk);
  color: var(--ink);
  font: 1rem/1.5 "Helvetica Neue", "Liberation Sans", Arial, system-ui, sans-serif;
}
main { width: min(30rem, 100%); padding: 1.9rem 1.4rem 1.5rem; background: var(--paper); border: 2px solid var(--rule); box-shadow: inset 0 0.7rem var(--mark); }
.brand { margin: 0 0 1.2rem; font-size: 1.5rem; font-weight: 800; line-height: 1; letter-spacing: -0.045em; }
h1 { margin: 0 0 0.5rem; font-size: 1.35rem; line-height: 1.2; }
p { margin: 0 0 1rem; }
ul { margin: 0 0 1rem; padding-left: 1.1rem; color: var(--soft); font-size: 0.9rem; }
label { display: block; color: var(--soft); font-size: 0.86rem; }
input { display: block; width: 100%; height: 2.7rem; margin: 0.2rem 0 0.8rem; padding: 0.5rem 0.6rem; border: 1px solid var(--rule); border-radius: 0; background: var(--paper); color: var(--ink); font: inherit; }
input[aria-invalid="true"] { border-color: var(--bad); border-width: 2px; }
.check { display: flex; align-items: center; gap: 0.5rem; margin: 0 0 1rem; }
.check input { width: 1.1rem; height: 1.1rem; margin: 0; }
button { height: 2.7rem; padding: 0 1.2rem; border: 1px solid var(--ink); border-radius: 0; background: var(--ink); color: var(--paper); font: inherit; font-weight: 600; cursor: pointer; }
button:hover { background: var(--mark); border-color: var(--mark); color: #14181b; }
button:disabled { opacity: 0.5; cursor: progress; }
:focus-visible { outline: 3px solid var(--mark); outline-offset: 2px; box-shadow: 0 0 0 2px var(--ink); }
.message { margin: 0 0 1rem; padding: 0.6rem 0.8rem; border-left: 0.35rem solid currentColor; font-weight: 600; }
.message:empty { display: none; }
.message:focus { outline: none; }
.message.ok { color: var(--ok); }
.message.bad { color: var(--bad); }
form p:last-child, section p:last-child, main > :last-child { margin-bottom: 0; }
`;
