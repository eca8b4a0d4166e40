"""The one loop: source, decoder, park detector, attribution, sinks. No kernel, no terminal."""
