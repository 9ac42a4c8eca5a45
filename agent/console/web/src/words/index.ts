import { en } from './en'

// The words in use. Another language is another object of the same shape.
export const words = en

const rules = new Intl.PluralRules('en')

type Plural = { one: string; other: string }

// plural picks the form that fits n.
export function plural(forms: Plural, n: number): string {
  return rules.select(n) === 'one' ? forms.one : forms.other
}

// pick looks a code up; a code that is not in the table gives undefined, also
// if it happens to be the name of something every object has.
export function pick<T>(table: Record<string, T>, code: string): T | undefined {
  return Object.hasOwn(table, code) ? table[code] : undefined
}

// fill puts values into {braces}; an unknown name stays as it is.
export function fill(text: string, values: Record<string, string | number>): string {
  return text.replace(/\{(\w+)\}/g, (all, name: string) => String(pick(values, name) ?? all))
}
