// Form fields with their labels and notes.
import type { ComponentChildren, JSX } from "preact";
import { useId } from "preact/hooks";

interface FieldProps {
  label: string;
  note?: ComponentChildren;
  value: string;
  onValue: (value: string) => void;
  type?: "text" | "password";
  autocomplete?: string;
  required?: boolean;
  minLength?: number;
  maxLength?: number;
  mono?: boolean;
  rows?: number;
}

/** A text field, or one of several lines. */
export function Field(asked: FieldProps): JSX.Element {
  const id = useId();
  const note = asked.note ? { "aria-describedby": `${id}-note` } : {};
  const common = {
    id,
    value: asked.value,
    required: asked.required ?? false,
    class: asked.mono ? "mono" : "",
    onInput: (event: Event) => asked.onValue((event.currentTarget as HTMLInputElement).value),
    ...(asked.maxLength ? { maxLength: asked.maxLength } : {}),
    ...(asked.minLength ? { minLength: asked.minLength } : {}),
    ...note,
  };
  const plain = asked.mono ? { spellcheck: false, autocapitalize: "off" as const } : {};
  const kind = asked.type === "password" ? { type: "password" as const } : { type: "text" as const };
  return (
    <div class="field">
      <label for={id}>{asked.label}</label>
      {asked.rows ? (
        <textarea {...common} {...plain} rows={asked.rows} />
      ) : (
        <input {...common} {...plain} {...kind} autocomplete={asked.autocomplete ?? "off"} />
      )}
      {asked.note && (
        <p id={`${id}-note`} class="muted small">
          {asked.note}
        </p>
      )}
    </div>
  );
}

/** A choice of a few. */
export function Choice(asked: {
  label: string;
  value: string;
  options: [string, string][];
  onValue: (value: string) => void;
}): JSX.Element {
  const id = useId();
  return (
    <div class="field">
      <label for={id}>{asked.label}</label>
      <select id={id} value={asked.value} onChange={(event) => asked.onValue(event.currentTarget.value)}>
        {asked.options.map(([value, name]) => (
          <option key={value} value={value}>
            {name}
          </option>
        ))}
      </select>
    </div>
  );
}

/** A few ways to see the same, of which one is on. */
export function Switch(asked: {
  label: string;
  value: string;
  options: [string, string][];
  onValue: (value: string) => void;
}): JSX.Element {
  return (
    <div class="switch" role="group" aria-label={asked.label}>
      {asked.options.map(([value, name]) => (
        <button key={value} type="button" aria-pressed={asked.value === value} onClick={() => asked.onValue(value)}>
          {name}
        </button>
      ))}
    </div>
  );
}
