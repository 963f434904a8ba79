// The frame of every page: its title, which takes the focus when one arrives.
import type { ComponentChildren, JSX } from "preact";
import { useEffect } from "preact/hooks";

interface Props {
  title: string;
  /** The browser tab's title, when it is to differ. */
  tab?: string;
  lead?: ComponentChildren;
  actions?: ComponentChildren;
  above?: ComponentChildren;
  children: ComponentChildren;
}

export function PageFrame({ title, tab, lead, actions, above, children }: Props): JSX.Element {
  useEffect(() => {
    document.title = `${tab ?? title} · Metergate`;
  }, [title, tab]);
  return (
    <>
      {above}
      <div class="page-head">
        <div>
          <h1 tabIndex={-1}>{title}</h1>
          {lead && <p class="lead">{lead}</p>}
        </div>
        {actions && <div class="actions">{actions}</div>}
      </div>
      {children}
    </>
  );
}

/** A titled part of a page. */
export function Section(asked: { title: string; note?: ComponentChildren; actions?: ComponentChildren; children: ComponentChildren }): JSX.Element {
  return (
    <section class="card">
      <div class="card-head">
        <h2>{asked.title}</h2>
        {asked.note && <span class="muted small">{asked.note}</span>}
        {asked.actions && <div class="actions">{asked.actions}</div>}
      </div>
      {asked.children}
    </section>
  );
}
