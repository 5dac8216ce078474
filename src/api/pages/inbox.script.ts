/** Looks for new mail every two seconds and renews the list alone, so that the mail being read stays as it is. */
export const INBOX_SCRIPT = `
const shown = document.body.dataset.shown;
async function renew() {
  if (document.hidden) return;
  const url = new URL(location.href);
  if (shown) url.searchParams.set('id', shown);
  const answer = await fetch(url, { cache: 'no-store' });
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
  if (!shown && page.body.dataset.shown) return location.reload();
  for (const id of ['list', 'count']) {
    const now = document.getElementById(id);
    const fresh = page.getElementById(id);
    if (now && fresh && now.innerHTML !== fresh.innerHTML) now.replaceChildren(...fresh.childNodes);
  }
}
setInterval(() => renew().catch(() => undefined), 2000);
`;
