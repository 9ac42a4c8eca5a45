import { useEffect } from 'preact/hooks'
import type { LampState } from './verdict'
import checkIcon from './signs/lamp-check.svg'
import helpIcon from './signs/lamp-help.svg'
import offIcon from './signs/lamp-off.svg'
import onIcon from './signs/lamp-on.svg'

// Lamp is the porch lantern in one of its four states. index.html holds the
// same drawing for the first paint.
export function Lamp({ state, height }: { state: LampState; height: number }) {
  return (
    <div class={'lamp ' + state}>
      <svg width={Math.round((height * 66) / 84)} height={height} viewBox="0 0 66 84" aria-hidden="true">
        <path class="ring" d="M61 24A35 35 0 1 1 5 38" />
        <path class="glass" d="M24 35h28l-4 32H28z" />
        <path class="bulb" d="M38 41c4.5 5.4 6.5 8.4 6.5 12.2a6.5 6.5 0 0 1-13 0c0-3.8 2-6.8 6.5-12.2z" />
        <path class="frame" d="M5 2v20M5 9h24a9 9 0 0 1 9 9M30 19h16l10 13H20zM24 35h28l-4 32H28zM26 71h24M38 71v6" />
      </svg>
    </div>
  )
}

const icons = { on: onIcon, help: helpIcon, check: checkIcon, off: offIcon }

// useTab keeps the tab's title and icon in step with the state.
export function useTab(state: LampState, title: string) {
  useEffect(() => { document.title = title }, [title])
  useEffect(() => {
    const link = document.querySelector<HTMLLinkElement>('link[rel=icon]')
    if (link) link.href = icons[state]
  }, [state])
}
