/**
 * What the pages of mailed links do. Nothing is sent before the button is pressed, so that a mail scanner which opens
 * the link does not use it up. Texts for each case stand on the page, as data of its form.
 */
export const VERIFY_SCRIPT = `
'use strict';
const token = new URLSearchParams(location.search).get('token');
const message = document.getElementById('message');
const form = document.getElementById('use');
const again = document.getElementById('again');

function say(text, kind) {
  message.textContent = text;
  message.className = 'message ' + kind;
  message.focus();
}

async function post(path, body) {
  try {
    const answer = await fetch(path, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
      credentials: 'omit',
      referrerPolicy: 'no-referrer',
    });
    return { status: answer.status, error: (await answer.json()).error };
  } catch {
    return { status: 0 };
  }
}

function trouble({ status, error }) {
  if (status === 429) return 'Too many tries. Wait ' + (error?.retry_after ?? 60) + ' seconds, then try again.';
  if (status >= 400 && status < 500) {
    const why = error?.message ?? 'that was refused';
    return why[0].toUpperCase() + why.slice(1) + '.';
  }
  return 'The service cannot be reached at the moment. Try again shortly; the link stays good.';
}

/** The link is no good: it stays on screen why, and how to get another. */
function spent() {
  form.hidden = true;
  if (again) again.hidden = false;
  say(form.dataset.spent, 'bad');
}

function busy(element, yes) {
  for (const button of element.querySelectorAll('button')) button.disabled = yes;
}

form.addEventListener('submit', async (event) => {
  event.preventDefault();
  const field = form.elements.namedItem('password');
  busy(form, true);
  const result = await post(form.dataset.action, field ? { token, password: field.value } : { token });
  busy(form, false);
  field?.removeAttribute('aria-invalid');
  if (result.status === 200) {
    form.hidden = true;
    history.replaceState(null, '', location.pathname);
    say(form.dataset.done, 'ok');
  } else if (result.error?.field === 'token') spent();
  else {
    if (result.error?.field === 'password') field?.setAttribute('aria-invalid', 'true');
    say(trouble(result), 'bad');
    if (result.error?.field === 'password') field?.focus();
  }
});

again?.addEventListener('submit', async (event) => {
  event.preventDefault();
  busy(again, true);
  const result = await post(again.dataset.action, { email: again.elements.namedItem('email').value });
  busy(again, false);
  if (result.status !== 202) return say(trouble(result), 'bad');
  again.hidden = true;
  say('If there is an account with this address that needs it, a new link is on its way.', 'ok');
});

document.getElementById('show')?.addEventListener('change', (event) => {
  form.elements.namedItem('password').type = event.target.checked ? 'text' : 'password';
});

if (token) form.hidden = false;
else spent();
`;
