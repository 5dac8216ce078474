/** What a mail says, before it is dressed as text and as HTML. Strings are handlebars sources. */
export interface TemplateSource {
  /** Every variable that must be given. */
  variables: readonly string[];
  subject: string;
  /** Paragraphs in order; `{ action }` stands for the button that opens `link`. */
  body: readonly (string | { action: string })[];
}

const greeting = 'Hello {{full_name}},';
const notYou = 'If this was not you, set a new password at once and sign out your other devices.';

export const TEMPLATES = {
  'verify-email': {
    variables: ['full_name', 'link'],
    subject: 'Confirm your e-mail address',
    body: [
      greeting,
      'Please confirm that this e-mail address is yours. The link works once and for 24 hours.',
      { action: 'Confirm my address' },
      'If you did not create an account, you can ignore this message.',
    ],
  },
  'already-registered': {
    variables: ['full_name', 'link'],
    subject: 'You already have an account',
    body: [
      greeting,
      'Someone, probably you, tried to create an account with this e-mail address. You have one already, so nothing was changed.',
      'If you forgot your password, you can choose a new one:',
      { action: 'Choose a new password' },
      'If you did not try to create an account, you can ignore this message.',
    ],
  },
  'reset-password': {
    variables: ['full_name', 'link'],
    subject: 'Reset your password',
    body: [
      greeting,
      'We were asked to reset the password of your account. The link works once and for one hour.',
      { action: 'Reset my password' },
      'If you did not ask for this, you can ignore this message: your password stays as it is.',
    ],
  },
  'set-password': {
    variables: ['full_name', 'link'],
    subject: 'Choose a password for your new account',
    body: [
      greeting,
      'An account was created for you. Choose a password to start using it.',
      { action: 'Choose a password' },
    ],
  },
  'password-changed': {
    variables: ['full_name'],
    subject: 'Your password was changed',
    body: [greeting, 'The password of your account was changed just now.', notYou],
  },
  'change-email': {
    variables: ['full_name', 'link'],
    subject: 'Confirm your new e-mail address',
    body: [
      greeting,
      'You asked to use this e-mail address for your account from now on. The link works once and for one hour.',
      { action: 'Use this address' },
      'If you did not ask for this, you can ignore this message: nothing changes.',
    ],
  },
  'email-in-use': {
    variables: ['full_name'],
    subject: 'Your e-mail address was given for another account',
    body: [
      greeting,
      'Someone asked to use your e-mail address for another account. It belongs to yours, so nothing was changed.',
      'If this was you, delete the account that you do not need first.',
    ],
  },
  'email-change-requested': {
    variables: ['full_name'],
    subject: 'A change of your e-mail address was asked for',
    body: [
      greeting,
      'Another e-mail address was given for your account. It is used as soon as it is confirmed; until then nothing changes.',
      notYou,
    ],
  },
  'email-changed': {
    variables: ['full_name'],
    subject: 'Your e-mail address was changed',
    body: [
      greeting,
      'The e-mail address of your account was changed just now. This is the last message to the old one.',
      'If this was not you, tell whoever runs this service at once.',
    ],
  },
  'second-factor-on': {
    variables: ['full_name'],
    subject: 'Two-step sign-in is on',
    body: [greeting, 'From now on signing in to your account needs a code besides your password.', notYou],
  },
  'second-factor-off': {
    variables: ['full_name'],
    subject: 'Two-step sign-in is off',
    body: [greeting, 'Signing in to your account needs your password only from now on.', notYou],
  },
  'second-factor-reset': {
    variables: ['full_name'],
    subject: 'Two-step sign-in was turned off for you',
    body: [
      greeting,
      'An administrator turned two-step sign-in off for your account, as its owner had asked. You were signed out everywhere; signing in needs your password only.',
      'Turn it on again when you have signed in. If you did not ask for this, tell whoever runs this service at once.',
    ],
  },
  'session-reuse': {
    variables: ['full_name'],
    subject: 'We signed you out of a session',
    body: [
      greeting,
      'A sign-in token of one of your sessions was used a second time. That can mean that someone copied it, so we ended that session.',
      'Sign in again to go on. If you notice anything unusual, set a new password.',
    ],
  },
  'new-sign-in': {
    variables: ['full_name', 'ip', 'user_agent', 'at'],
    subject: 'New sign-in to your account',
    body: [greeting, 'Your account was signed in to at {{at}} from {{ip}} with {{user_agent}}.', notYou],
  },
  'endpoint-disabled': {
    variables: ['url', 'reason'],
    subject: 'A webhook endpoint was disabled',
    body: [
      'Hello,',
      'Your webhook endpoint {{url}} was disabled and receives no more deliveries.',
      'Reason: {{reason}}',
      'Enable it again when it is repaired, then recover the deliveries that it missed.',
    ],
  },
  'kyc-approved': {
    variables: ['full_name'],
    subject: 'Your identity was verified',
    body: [greeting, 'Your identity check is complete and your identity is verified. There is nothing more to do.'],
  },
  'kyc-rejected': {
    variables: ['full_name', 'reason'],
    subject: 'Your identity check was not successful',
    body: [
      greeting,
      'We could not verify your identity.',
      'Reason: {{reason}}',
      'You can submit your documents again.',
    ],
  },
} as const satisfies Record<string, TemplateSource>;

export type TemplateName = keyof typeof TEMPLATES;

export const TEMPLATE_NAMES = Object.keys(TEMPLATES) as TemplateName[];
