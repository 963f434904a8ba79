// Short notes about what was just done, read out politely.
import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";

interface Note {
  id: number;
  words: string;
  tone: "ok" | "warn";
}

const SHOWN_MS = 6_000;
let number = 0;
let show: (note: Note) => void = () => {};

/** Show a note for some seconds. */
export function toast(words: string, tone: "ok" | "warn" = "ok"): void {
  number += 1;
  show({ id: number, words, tone });
}

/** Where notes appear: once, in the page's frame. */
export function Toasts(): JSX.Element {
  const [notes, setNotes] = useState<Note[]>([]);
  useEffect(() => {
    show = (note) => {
      setNotes((before) => [...before.slice(-2), note]);
      setTimeout(() => setNotes((before) => before.filter((each) => each.id !== note.id)), SHOWN_MS);
    };
  }, []);
  return (
    <div class="toasts" role="status" aria-live="polite">
      {notes.map((note) => (
        <p key={note.id} class={`toast ${note.tone}`}>
          {note.words}
        </p>
      ))}
    </div>
  );
}
