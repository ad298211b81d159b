"""Third-party implementations under the contract of a method, to be compared with ours side by side."""
