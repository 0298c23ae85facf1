// For runs where the component uses sockets of its own: this host gives no stream.
export class Link {
  static connect() {
    throw { trouble: 'unreachable', text: 'this host gives no stream' };
  }
}
