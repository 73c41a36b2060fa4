"""Services: what is wanted (``registry``), what to do about it (``plan``), and who does it (``controller``)."""
