"""The federation server: coordinates rounds, decides nothing for a site."""
