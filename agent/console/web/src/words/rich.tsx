import type { ComponentChildren } from 'preact'
import { Fragment } from 'preact'
import { pick } from '.'

// Rich shows a sentence: *stars* become bold, {braces} become the given nodes
// (names of others as <Name>, so that their direction stays their own).
export function Rich({ text, values = {} }: { text: string; values?: Record<string, ComponentChildren> }) {
  return (
    <>
      {text.split(/(\*[^*]+\*)/).map((part, i) =>
        part.startsWith('*') && part.length > 2
          ? <b key={i}>{nodes(part.slice(1, -1), values)}</b>
          : <Fragment key={i}>{nodes(part, values)}</Fragment>,
      )}
    </>
  )
}

function nodes(text: string, values: Record<string, ComponentChildren>) {
  return text.split(/(\{\w+\})/).map((part) => {
    const name = part.startsWith('{') ? part.slice(1, -1) : ''
    return pick(values, name) ?? part
  })
}

const longest = 40

// cut shortens a name to 40 characters, the last one an ellipsis.
export function cut(name: string): string {
  const letters = [...name]
  return letters.length > longest ? letters.slice(0, longest - 1).join('') + '…' : name
}

// Name shows a name that others chose: as text, cut, its direction isolated.
export function Name({ of }: { of: string }) {
  return <bdi>{cut(of)}</bdi>
}
