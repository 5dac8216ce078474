/** The inbox page's style sheet; light and dark by the viewer's setting. */
export const INBOX_STYLE = `
:root { color-scheme: light dark; --page: #f3f5f7; --card: #fff; --ink: #1c232b; --quiet: #5a6672; --line: #dde2e7; --accent: #0b5cad; --chosen: #e5effa; }
@media (prefers-color-scheme: dark) { :root { --page: #15181c; --card: #1f2429; --ink: #e6e8eb; --quiet: #a3adb8; --line: #343b43; --accent: #7ab8ff; --chosen: #26374a; } }
* { box-sizing: border-box; }
body { margin: 0; height: 100dvh; display: grid; grid-template: auto minmax(0, 1fr) / minmax(260px, 360px) minmax(0, 1fr); background: var(--page); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
body > header { grid-column: 1 / -1; display: flex; align-items: baseline; gap: 12px; padding: 12px 20px; background: var(--card); border-bottom: 1px solid var(--line); }
h1, h2 { margin: 0; font-size: 17px; }
h2 { font-size: 21px; line-height: 1.3; overflow-wrap: anywhere; }
header p { margin: 0; color: var(--quiet); font-size: 13px; }
header a { margin-left: auto; font-size: 13px; }
a { color: var(--accent); }
:focus-visible { outline: 2px solid var(--accent); outline-offset: -2px; }
nav { overflow-y: auto; border-right: 1px solid var(--line); background: var(--card); }
nav ol { list-style: none; margin: 0; padding: 0; }
nav a { display: block; padding: 10px 20px; color: inherit; text-decoration: none; border-bottom: 1px solid var(--line); }
nav a:hover, nav a[aria-current] { background: var(--chosen); }
nav span, nav strong { display: block; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
nav span, nav p { font-size: 13px; color: var(--quiet); }
nav p { margin: 0; padding: 12px 20px; }
main { min-width: 0; padding: 20px; display: flex; flex-direction: column; gap: 14px; overflow-y: auto; }
dl { display: grid; grid-template-columns: auto minmax(0, 1fr); gap: 2px 14px; margin: 0; font-size: 14px; }
dt { color: var(--quiet); }
dd { margin: 0; overflow-wrap: anywhere; }
.views { display: flex; gap: 6px; }
.views a { padding: 4px 12px; border: 1px solid var(--line); border-radius: 6px; text-decoration: none; font-size: 14px; }
.views a[aria-current] { background: var(--chosen); border-color: var(--accent); }
iframe, pre { flex: 1 0 300px; width: 100%; margin: 0; border: 1px solid var(--line); border-radius: 8px; background: var(--card); }
pre { padding: 16px; overflow: auto; white-space: pre-wrap; overflow-wrap: anywhere; font: 14px/1.5 ui-monospace, monospace; }
.empty { margin: auto; text-align: center; color: var(--quiet); }
@media (max-width: 720px) { body { display: block; height: auto; } nav { max-height: 40dvh; border-right: 0; } header p { display: none; } iframe { height: 70dvh; } }
`;
