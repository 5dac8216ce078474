/**
 * The one HTML frame of every mail. No tables, no images, nothing loaded: styles stand inline for the clients that
 * drop `<style>`, and the dark palette is an override for those that honour it.
 */
export const HTML_LAYOUT = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="supported-color-schemes" content="light dark">
<title>{{subject}}</title>
<style>
:root { color-scheme: light dark; supported-color-schemes: light dark; }
@media (prefers-color-scheme: dark) {
  .page { background-color: #15181c !important; color: #e6e8eb !important; }
  .card { background-color: #1f2429 !important; border-color: #343b43 !important; }
  .button { background-color: #7ab8ff !important; color: #0d1b2a !important; }
  .quiet { color: #a3adb8 !important; }
  .link { color: #7ab8ff !important; }
}
</style>
</head>
<body class="page" style="margin:0;padding:24px 12px;background-color:#f3f5f7;color:#1c232b;font-family:-apple-system,BlinkMacSystemFont,'Segoe UI',Helvetica,Arial,sans-serif;font-size:16px;line-height:1.5">
<div style="max-width:560px;margin:0 auto">
<p class="quiet" style="margin:0 0 12px 4px;font-size:14px;font-weight:600;letter-spacing:.02em;color:#5a6672">Waybill</p>
<div class="card" style="padding:28px 28px 20px;background-color:#ffffff;border:1px solid #dde2e7;border-radius:10px">
{{{content}}}
</div>
<p class="quiet" style="margin:16px 4px 0;font-size:13px;color:#5a6672">This message was sent automatically. Replies to it are not read.</p>
</div>
</body>
</html>
`;

/** A paragraph of a mail; the text may hold template expressions. */
export const paragraph = (html: string): string => `<p style="margin:0 0 16px;overflow-wrap:anywhere">${html}</p>`;

/** The one thing to do in a mail: a button, and below it the address to copy for clients that show no links. */
export const button = (label: string): string =>
  `<p style="margin:24px 0"><a class="button" href="{{link}}" style="display:inline-block;padding:12px 22px;background-color:#0b5cad;color:#ffffff;border-radius:6px;font-weight:600;text-decoration:none">${label}</a></p>
<p class="quiet" style="margin:0 0 16px;font-size:13px;color:#5a6672;overflow-wrap:anywhere">If the button does not work, open this address:<br><a class="link" href="{{link}}" style="color:#0b5cad">{{link}}</a></p>`;
