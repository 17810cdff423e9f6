// Search in a site that is opened from a folder, where browsers allow no workers: the worker's script runs in a
// frame of the page, and gets and sends the same messages.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.inner = frame.contentWindow;
      this.inner.postMessage = (message) => {
        const event = new MessageEvent("message", { data: structuredClone(message) });
        setTimeout(() => {  // as of another thread: after what runs now
          this.dispatchEvent(event);
          this.onmessage?.(event);
        });
      };
      const script = this.inner.document.createElement("script");
      this.ready = new Promise((done) => (script.onload = done));
      script.src = url;
      this.inner.document.body.append(script);
    }

    postMessage(message) {
      const event = new this.inner.MessageEvent("message", { data: structuredClone(message) });
      this.ready.then(() => setTimeout(() => this.inner.dispatchEvent(event)));
    }

    terminate() {
      this.inner.frameElement.remove();
    }
  };
}
