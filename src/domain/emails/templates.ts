import Handlebars from 'handlebars';
import { button, HTML_LAYOUT, paragraph } from './layout.ts';
import { TEMPLATE_NAMES, TEMPLATES, type TemplateName, type TemplateSource } from './texts.ts';

export { TEMPLATE_NAMES, type TemplateName } from './texts.ts';

export interface RenderedMail {
  subject: string;
  html: string;
  text: string;
}

/** A template that does not exist, a variable that is missing, or a link that is none. */
export class TemplateError extends Error {
  override name = 'TemplateError';
}

type Render = (data: Record<string, unknown>) => string;
type Compiled = TemplateSource & { renderSubject: Render; renderText: Render; renderHtml: Render };

const plain = (source: string): Render => Handlebars.compile(source, { noEscape: true, strict: true });
const markup = (source: string): Render => Handlebars.compile(source, { strict: true });
const layout = markup(HTML_LAYOUT);

function compile(source: TemplateSource): Compiled {
  const text = source.body.map((part) => (typeof part === 'string' ? part : '{{link}}')).join('\n\n');
  const html = source.body.map((part) => (typeof part === 'string' ? paragraph(part) : button(part.action))).join('\n');
  return { ...source, renderSubject: plain(source.subject), renderText: plain(`${text}\n`), renderHtml: markup(html) };
}

const compiled = new Map<string, Compiled>(TEMPLATE_NAMES.map((name) => [name, compile(TEMPLATES[name])]));

/** Line breaks and control characters become a space: a value can neither end a header nor start a paragraph of its own. */
const oneLine = (value: string): string => value.replace(/[\p{Cc}\u2028\u2029]+/gu, ' ').trim();

/** A sign-up names its own recipient, so a "name" that is an advertisement with an address is not passed on. */
const safeName = (value: string): string => (/:\/\/|\bwww\./i.test(value) ? 'there' : value);

function check(name: string, data: Record<string, string>): { template: Compiled; values: Record<string, string> } {
  const template = compiled.get(name);
  if (!template) throw new TemplateError(`there is no e-mail template "${name}"`);
  const missing = template.variables.filter((variable) => typeof data[variable] !== 'string');
  if (missing.length > 0) throw new TemplateError(`the e-mail template "${name}" lacks ${missing.join(', ')}`);
  const values = Object.fromEntries(template.variables.map((variable) => [variable, oneLine(data[variable] ?? '')]));
  if (values.full_name !== undefined) values.full_name = safeName(values.full_name);
  if (values.link !== undefined && !['http:', 'https:'].includes(URL.parse(values.link)?.protocol ?? '')) {
    throw new TemplateError(`the link of the e-mail template "${name}" is not an http(s) URL`);
  }
  return { template, values };
}

/** Inside quotes `=` is harmless, and a link that reads as one can be copied from the source of a mail. */
const htmlLink = (link: string) =>
  new Handlebars.SafeString(Handlebars.escapeExpression(link).replaceAll('&#x3D;', '='));

/** The values of `data` that the template uses; throws `TemplateError` when one is missing. */
export function templateData(name: TemplateName, data: Record<string, string>): Record<string, string> {
  return check(name, data).values;
}

/** The subject alone, on one line. Throws `TemplateError`. */
export function renderSubject(name: TemplateName, data: Record<string, string>): string {
  const { template, values } = check(name, data);
  return oneLine(template.renderSubject(values));
}

/** Subject, HTML (values escaped) and text. Throws `TemplateError`. */
export function renderMail(name: string, data: Record<string, string>): RenderedMail {
  const { template, values } = check(name, data);
  const subject = oneLine(template.renderSubject(values));
  const content = template.renderHtml({
    ...values,
    ...(values.link === undefined ? {} : { link: htmlLink(values.link) }),
  });
  return { subject, html: layout({ subject, content }), text: template.renderText(values) };
}
