// Small parts that the sections share.

import { useId, useRef } from 'preact/hooks'
import type { Job } from '../desk'
import { words } from '../words'

// Problem is the line of what could not be done, where it was tried.
export function Problem({ of: job }: { of: Job }) {
  return job.trouble ? <p class="bad small" role="alert">{job.trouble}</p> : null
}

type FieldProps = {
  label: string
  value: string
  set: (v: string) => void
  hint?: string
  hidden?: boolean // the label is for screen readers only
  placeholder?: string
  max?: number
}

// Field is a line of text with its label.
export function Field({ label, value, set, hint, hidden = false, placeholder, max = 40 }: FieldProps) {
  const id = useId()
  return (
    <div class="field">
      <label for={id} class={hidden ? 'vh' : undefined}>{label}</label>
      <input
        id={id} type="text" value={value} placeholder={placeholder} maxLength={max} autocomplete="off" autocapitalize="off" spellcheck={false} dir="auto"
        aria-describedby={hint && id + 'h'} onInput={(e) => set(e.currentTarget.value)}
      />
      {hint && <small id={id + 'h'}>{hint}</small>}
    </div>
  )
}

// Role chooses between a friend and somebody who sees public things only.
export function Role({ label, value, set, own = false }: { label: string; value: string; set: (v: string) => void; own?: boolean }) {
  const id = useId()
  const w = words.roles
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <select id={id} value={value} onChange={(e) => set(e.currentTarget.value)}>
        <option value="friend">{w.friend}</option>
        <option value="">{w.none}</option>
        {own && <option value="me">{w.me}</option>}
      </select>
    </div>
  )
}

export const roleName = (role: string) => (role === 'friend' ? words.roles.friend : role === 'me' ? words.roles.me : words.roles.none)

// useOnce keeps a value that is worked out when the part first appears.
export function useOnce<T>(make: () => T): T {
  const ref = useRef<{ value: T } | null>(null)
  ref.current ??= { value: make() }
  return ref.current.value
}
