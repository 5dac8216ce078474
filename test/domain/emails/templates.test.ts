import { describe, expect, it } from 'vitest';
import { renderMail, renderSubject, TEMPLATE_NAMES, TemplateError } from '../../../src/domain/emails/templates.ts';
import { TEMPLATES } from '../../../src/domain/emails/texts.ts';

const link = 'https://example.org/verify?token=abc123&lang=en';
const everything = {
  full_name: 'Ada',
  link,
  ip: '192.0.2.1',
  user_agent: 'Firefox',
  at: 'noon',
  url: 'https://hook.example',
  reason: 'blurred',
};

describe('e-mail templates', () => {
  it.each(TEMPLATE_NAMES)('%s says its variables in the HTML and in the text, and nothing is left unfilled', (name) => {
    const mail = renderMail(name, everything);
    for (const variable of TEMPLATES[name].variables as readonly (keyof typeof everything)[]) {
      expect(mail.text).toContain(everything[variable]);
      expect(mail.html).toContain(everything[variable].replaceAll('&', '&amp;'));
    }
    expect(mail.subject).not.toBe('');
    expect(mail.subject + mail.html + mail.text).not.toMatch(/\{\{|undefined|\[object/);
    expect(mail.html).not.toMatch(/<table|<img|<script|src=/);
  });

  it('names every missing variable', () => {
    expect(() => renderMail('new-sign-in', { full_name: 'Ada', ip: '192.0.2.1' })).toThrow(
      new TemplateError('the e-mail template "new-sign-in" lacks user_agent, at'),
    );
  });

  it('refuses an unknown template, also one that is named like a property of every object', () => {
    for (const name of ['nope', 'constructor', '__proto__'])
      expect(() => renderMail(name, everything)).toThrow(`no e-mail template "${name}"`);
  });

  it('calls a reset a reset', () => {
    expect(renderSubject('reset-password', everything).toLowerCase()).toContain('reset');
  });

  it('escapes markup in HTML and leaves the text as it is', () => {
    const mail = renderMail('password-changed', { full_name: `<img src=x onerror="a('b')">` });
    expect(mail.html).not.toContain('<img');
    expect(mail.html).toContain('&lt;img');
    expect(mail.text).toContain('<img src');
  });

  it('keeps a value on its line, so that it starts neither a header nor a paragraph', () => {
    const mail = renderMail('kyc-rejected', {
      full_name: 'Ada\r\nBcc: eve@example.org',
      reason: 'a\u2028b\u0000c\n\nPay here',
    });
    expect(mail.text).toContain('Hello Ada Bcc: eve@example.org,');
    expect(mail.text).toContain('Reason: a b c Pay here');
    expect(mail.subject).not.toMatch(/[\r\n]/);
  });

  it('does not evaluate template expressions inside a value', () => {
    expect(renderMail('password-changed', { full_name: '{{constructor}}' }).text).toContain('Hello {{constructor}},');
  });

  it('takes only http(s) links, and keeps quotes from leaving the attribute', () => {
    expect(() => renderMail('verify-email', { full_name: 'Ada', link: 'javascript:alert(1)' })).toThrow(
      'not an http(s) URL',
    );
    const { html } = renderMail('verify-email', { full_name: 'Ada', link: 'https://a.example/?token=x"onclick="y' });
    expect(html).toContain('href="https://a.example/?token=x&quot;onclick=&quot;y"');
  });

  it('does not carry an advertisement in place of a name', () => {
    const { text, html } = renderMail('verify-email', { full_name: 'You won, see https://evil.example', link });
    expect(text + html).not.toContain('evil.example');
  });
});
