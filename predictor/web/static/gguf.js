// The header of a .gguf file, cut out by walking through it: the weights are never read.

const WIDTHS = { 0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8 };
const TEXT = 8, ARRAY = 9;
const FIRST = 2 ** 20, MOST = 32 * 2 ** 20;

class TooShort extends Error {}

/** The bytes of the header, as a Blob; throws an Error with a sentence. */
export async function header(file) {
  for (let size = FIRST; ; size *= 4) {
    const view = new DataView(await file.slice(0, Math.min(size, MOST)).arrayBuffer());
    try {
      return file.slice(0, length(view));
    } catch (error) {
      if (!(error instanceof TooShort) && !(error instanceof RangeError)) throw error;
      if (size >= MOST || size >= file.size) throw new Error(`${file.name} ends within its header, or has more than ${MOST / 2 ** 20} MiB of it.`);
    }
  }
}

function length(view) {
  if (view.byteLength < 24 || view.getUint32(0, false) !== 0x47475546) throw new Error("The file does not start with GGUF.");
  let at = 8;
  const count = () => {
    const number = Number(view.getBigUint64(at, true));
    at += 8;
    return number;
  };
  const pass = (bytes) => {
    if (!(bytes >= 0)) throw new Error("The file has an array of a kind that is not known.");
    at += bytes;
    if (at > view.byteLength) throw new TooShort();
  };
  const word = () => {
    const number = view.getUint32(at, true);
    at += 4;
    return number;
  };
  const text = () => pass(count());
  const value = (kind) => {
    if (kind === TEXT) return text();
    if (kind === ARRAY) {
      const inner = word(), many = count();
      if (inner !== TEXT) return pass((WIDTHS[inner] ?? NaN) * many);
      for (let n = 0; n < many; n++) text();
      return undefined;
    }
    if (!(kind in WIDTHS)) throw new Error(`The file has metadata of kind ${kind}, which is not known.`);
    return pass(WIDTHS[kind]);
  };
  const tensors = count(), entries = count();
  for (let n = 0; n < entries; n++) {
    text();
    value(word());
  }
  for (let n = 0; n < tensors; n++) {
    text();
    pass(8 * word());
    pass(12);
  }
  return at;
}
