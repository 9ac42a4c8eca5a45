import type { ComponentChildren } from 'preact'
import { Sign } from './signs'
import { words } from './words'

// Trouble says what went wrong where it happened, until it is closed.
export function Trouble({ children, close }: { children: ComponentChildren; close: () => void }) {
  return (
    <div class="note harm" role="alert">
      <Sign of="x" />
      <div><p>{children}</p><div class="btns"><button type="button" class="btn" onClick={close}>{words.close}</button></div></div>
    </div>
  )
}
